// Package bench measures cairn beside a peer, in alternation on one machine, and writes docs/performance.md: make bench.
package bench

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
)

var (
	program = flag.String("cairn", "../../bin/cairn", "the `program` to measure")
	peer    = flag.String("peer", "./buildah", "the `script` that builds with the peer")
	rounds  = flag.Int("rounds", 3, "how `often` each workload is built by each")
	only    = flag.String("only", "", "measure only these workloads, `W1,W3`")
	docs    = flag.String("docs", "", "write the table and the picture to this `file`.md and file.svg")
)

// workload is something to build.
type workload struct {
	name, what string
	// warm is built once before it is measured.
	warm bool
	// push goes to the registry instead of a file.
	push  bool
	write func(b *testing.B, dir string, base bases)
}

// bases are names of base images.
type bases struct{ busybox, debian string }

// cost is what one build took.
type cost struct {
	wall, cpu time.Duration
	// memory is the peak of the largest process, pulled what came from the registry, in bytes.
	memory, pulled int64
}

func workloads() []workload {
	steps := func(n int) func(*testing.B, string, bases) {
		return func(b *testing.B, dir string, base bases) {
			var s strings.Builder
			fmt.Fprintf(&s, "FROM %s\n", base.busybox)
			for i := range n {
				fmt.Fprintf(&s, "RUN echo %d > /f%d\n", i, i)
			}
			file(b, dir, "Dockerfile", s.String())
		}
	}
	files := func(n int) func(*testing.B, string, bases) {
		return func(b *testing.B, dir string, base bases) {
			file(b, dir, "Dockerfile", "FROM "+base.busybox+"\nCOPY tree /tree\n")
			rnd := rand.New(rand.NewPCG(1, 2))
			for i := range n {
				file(b, dir, fmt.Sprintf("tree/d%d/f%d.txt", i/50, i), prose(rnd, 500+rnd.IntN(19000)))
			}
		}
	}
	text := func(format string) func(*testing.B, string, bases) {
		return func(b *testing.B, dir string, base bases) {
			file(b, dir, "Dockerfile", strings.NewReplacer("BUSYBOX", base.busybox, "DEBIAN", base.debian).Replace(format))
			file(b, dir, "tiny", "hello\n")
		}
	}
	return []workload{
		{name: "W1", what: "FROM scratch, COPY one file", write: text("FROM scratch\nCOPY tiny /app\nENTRYPOINT [\"/app\"]\n")},
		{name: "W2", what: "FROM debian, RUN true", write: text("FROM DEBIAN\nRUN true\n")},
		{name: "W3", what: "20 RUN steps on busybox", write: steps(20)},
		{name: "W4", what: "COPY 20,000 files, 200 MB", write: files(20000)},
		{name: "W5", what: "COPY 512 MB random, 512 MB text", write: large},
		{name: "W7", what: "two stages of 3 s at once", write: text("FROM BUSYBOX AS a\nRUN sleep 3; echo a >/a\nFROM BUSYBOX AS b\nRUN sleep 3; echo b >/b\n" +
			"FROM BUSYBOX\nCOPY --from=a /a /\nCOPY --from=b /b /\n")},
		{name: "W8", what: "W3 again, nothing changed", warm: true, write: steps(20)},
		{name: "W9", what: "metadata only on debian, pushed", push: true, write: text("FROM DEBIAN\nENV A=1\nLABEL x=y\nCMD [\"sh\"]\n")},
		{name: "W11", what: "FROM debian, COPY one small file, pushed", push: true, write: text("FROM DEBIAN\nCOPY tiny /tiny\n")},
		{name: "G10", what: "10 RUN steps", write: steps(10)},
		{name: "G100", what: "100 RUN steps", write: steps(100)},
		{name: "F1k", what: "COPY 1,000 files", write: files(1000)},
		{name: "F10k", what: "COPY 10,000 files", write: files(10000)},
	}
}

func file(b *testing.B, dir, name, content string) {
	b.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		b.Fatal(err)
	}
}

func prose(rnd *rand.Rand, n int) string {
	var s strings.Builder
	for s.Len() < n {
		s.WriteString(fmt.Sprintf("word%d ", rnd.IntN(5000)))
	}
	return s.String()
}

func large(b *testing.B, dir string, base bases) {
	file(b, dir, "Dockerfile", "FROM "+base.busybox+"\nCOPY rand.bin text.bin /\n")
	const size, block = 512 << 20, 1 << 20
	rnd := rand.NewChaCha8([32]byte{1})
	text := []byte(prose(rand.New(rnd), 2*block))
	for _, name := range []string{"rand.bin", "text.bin"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			b.Fatal(err)
		}
		part := make([]byte, block)
		for i := range size / block {
			copy(part, text[i*1009%block:])
			if name == "rand.bin" {
				_, _ = rnd.Read(part)
			}
			if _, err := f.Write(part); err != nil {
				b.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// row is a workload's costs, cairn's and the peer's.
type row struct {
	workload
	ours, theirs cost
}

func BenchmarkWorkloads(b *testing.B) {
	reg := harness.StartRegistry(b, harness.RegistryOptions{})
	counter := reg.Count(b)
	behind := func(name string) string { return strings.Replace(name, reg.Addr, counter.Addr, 1) }
	base := bases{behind(reg.Busybox(b)), behind(reg.Debian(b))}
	exe, err := filepath.Abs(*program)
	if err != nil {
		b.Fatal(err)
	}
	script, err := filepath.Abs(*peer)
	if err != nil {
		b.Fatal(err)
	}
	var rows []row
	for b.Loop() {
		for _, w := range workloads() {
			if *only != "" && !slices.Contains(strings.Split(*only, ","), w.name) {
				continue
			}
			dir := b.TempDir()
			w.write(b, dir, base)
			var ours, theirs []cost
			for i := range *rounds {
				ours = append(ours, measure(b, w, counter, i, func(store, dest string) *exec.Cmd {
					args := []string{"build", "-q", "--root", store}
					if name, ok := strings.CutPrefix(dest, "registry:"); ok {
						args = append(args, "--push", "-t", name)
					} else {
						args = append(args, "-o", "type=oci,dest="+strings.TrimPrefix(dest, "oci:"))
					}
					return exec.Command(exe, append(args, dir)...)
				}))
				theirs = append(theirs, measure(b, w, counter, i, func(store, dest string) *exec.Cmd {
					args := []string{store, dir, dest}
					if w.warm {
						args = append(args, "warm")
					}
					return exec.Command(script, args...)
				}))
			}
			r := row{w, median(ours), median(theirs)}
			fmt.Printf("%-5s %-42s %s | %s\n", w.name, w.what, r.ours, r.theirs)
			rows = append(rows, r)
		}
	}
	if *docs != "" {
		publish(b, rows)
	}
}

func (c cost) String() string {
	return fmt.Sprintf("%6.2f s wall %6.2f s CPU %4d MB memory %4d MB pulled", c.wall.Seconds(), c.cpu.Seconds(), c.memory>>20, c.pulled/1e6)
}

// measure builds once from an empty store, or once more where the workload is warm.
func measure(b *testing.B, w workload, counter *harness.Counter, round int, command func(store, dest string) *exec.Cmd) cost {
	b.Helper()
	store, err := os.MkdirTemp("", "bench-")
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = syscall.Unmount(filepath.Join(store, "root/overlay"), syscall.MNT_DETACH) // buildah, as root, mounts it on itself
		_ = os.RemoveAll(store)
	}()
	dest := "oci:" + filepath.Join(store, "out.tar")
	if w.push {
		dest = fmt.Sprintf("registry:%s/out-%s-%d-%s", counter.Addr, strings.ToLower(w.name), round, strings.ToLower(filepath.Base(store)))
	}
	var c cost
	for range map[bool]int{false: 1, true: 2}[w.warm] {
		counter.Take()
		cmd := command(store, dest)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		start := time.Now()
		if err := cmd.Run(); err != nil {
			b.Fatalf("%s: %v: %v\n%s", w.name, cmd.Args, err, out.String())
		}
		usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		c = cost{wall: time.Since(start), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), memory: usage.Maxrss << 10}
		for _, r := range counter.Take() {
			if r.Method == "GET" {
				c.pulled += r.Received
			}
		}
	}
	return c
}

// median is the median of each cost by itself.
func median(all []cost) cost {
	pick := func(of func(cost) int64) int64 {
		var v []int64
		for _, c := range all {
			v = append(v, of(c))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return cost{
		wall: time.Duration(pick(func(c cost) int64 { return int64(c.wall) })), cpu: time.Duration(pick(func(c cost) int64 { return int64(c.cpu) })),
		memory: pick(func(c cost) int64 { return c.memory }), pulled: pick(func(c cost) int64 { return c.pulled }),
	}
}
