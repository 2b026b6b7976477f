// Package bench measures cairn beside a peer, in alternation on one machine, and by itself as the work grows, and writes what it finds into
// docs/performance.md and its pictures: make bench.
package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

var (
	program = flag.String("cairn", "../../bin/cairn", "the `program` to measure")
	peer    = flag.String("peer", "./buildah", "the `script` that builds with the peer")
	rounds  = flag.Int("rounds", 3, "how `often` each workload is built by each; those that take minutes are built once")
	only    = flag.String("only", "", "measure only these workloads, `W1,W3`")
	quick   = flag.Bool("quick", false, "leave out what takes minutes")
	docs    = flag.String("docs", "", "write tables and pictures to this `file`.md and beside it; what is not measured now stays as it was")
)

// stage is where a benchmark takes place: a registry behind a counter, and a directory of which nothing is removed before the end. Removed files
// would be paid for by who creates files next: ext4 looks at each of their inodes.
type stage struct {
	dir     string
	counter *harness.Counter
	base    bases
	exe     string
	script  string
}

func newStage(b *testing.B) *stage {
	reg := harness.StartRegistry(b, harness.RegistryOptions{})
	s := &stage{dir: b.TempDir(), counter: reg.Count(b)}
	behind := func(name string) string { return strings.Replace(name, reg.Addr, s.counter.Addr, 1) }
	s.base = bases{behind(reg.Busybox(b)), behind(reg.Debian(b))}
	var err error
	if s.exe, err = filepath.Abs(*program); err == nil {
		s.script, err = filepath.Abs(*peer)
	}
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// wanted reports whether something is to be measured.
func wanted(name string, slow bool) bool {
	if *only != "" {
		return slices.Contains(strings.Split(*only, ","), name)
	}
	return !slow || !*quick
}

func BenchmarkWorkloads(b *testing.B) {
	s := newStage(b)
	r := readResults(b)
	for b.Loop() {
		for _, w := range workloads() {
			if wanted(w.name, w.slow) {
				row := s.compare(b, w)
				fmt.Printf("%-5s %-45s %s | %s\n", w.name, w.what, row.Ours, row.Theirs)
				r.Rows[w.name] = row
				r.publish(b)
			}
		}
	}
}

func BenchmarkGrowth(b *testing.B) {
	s := newStage(b)
	r := readResults(b)
	for b.Loop() {
		for _, g := range growths() {
			for _, n := range g.sizes {
				if name := fmt.Sprintf("%s%d", g.name, n); wanted(name, n >= 9*g.sizes[1]) {
					c := s.alone(b, g, n)
					fmt.Printf("%-8s %7d %-20s %s\n", g.name, n, g.unit, c)
					r.grown(g.name)[n] = c
					r.publish(b)
				}
			}
		}
	}
}

func BenchmarkMemory(b *testing.B) {
	s := newStage(b)
	r := readResults(b)
	for b.Loop() {
		for _, w := range heavy() {
			if wanted(w.name, true) {
				f := s.confined(b, w)
				fmt.Printf("%-5s %-45s %s\n", w.name, w.what, f)
				r.Memory[w.name] = f
				r.publish(b)
			}
		}
	}
}

// compare builds a workload with both, in alternation.
func (s *stage) compare(b *testing.B, w workload) row {
	dir := filepath.Join(s.dir, w.name)
	w.write(b, dir, s.base)
	n := *rounds
	if w.slow {
		n = 1
	}
	var ours, theirs []cost
	for i := range n {
		ours = append(ours, s.measure(b, w, i, "ours", func(t target) *exec.Cmd { return s.cairn(t, dir) }))
		theirs = append(theirs, s.measure(b, w, i, "theirs", func(t target) *exec.Cmd {
			args := []string{t.store, dir, t.dest}
			if w.warm {
				args = append(args, "warm")
			}
			return exec.Command(s.script, args...)
		}))
	}
	return row{Builds: n, Ours: median(ours), Theirs: median(theirs)}
}

// alone builds a workload of a size with cairn.
func (s *stage) alone(b *testing.B, g growth, n int) cost {
	w := workload{name: fmt.Sprintf("%s%d", g.name, n), write: g.write(n)}
	dir := filepath.Join(s.dir, w.name)
	w.write(b, dir, s.base)
	return s.measure(b, w, 0, "ours", func(t target) *exec.Cmd { return s.cairn(t, dir) })
}

// cairn is the command that builds a directory.
func (s *stage) cairn(t target, dir string) *exec.Cmd {
	args := []string{"build", "-q", "--root", t.store}
	if name, ok := strings.CutPrefix(t.dest, "registry:"); ok {
		args = append(args, "--push", "-t", name)
	} else {
		args = append(args, "-o", "type=oci,dest="+strings.TrimPrefix(t.dest, "oci:"))
	}
	return exec.Command(s.exe, append(args, dir)...)
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
