package snapshot_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/cairn-build/cairn/snapshot/native"
	"github.com/cairn-build/cairn/snapshot/overlay"
	"github.com/cairn-build/cairn/test/torture"
)

const (
	// insideVar is set in the test binary that has been started again in a mount namespace.
	insideVar = "CAIRN_HOSTILE_TEST_INSIDE"
	// most is how much memory, in KiB, and longest how long a case may take.
	most    = 256 << 10
	longest = 5 * time.Second
)

// TestHostileLayers is T1: every named attack through every snapshotter and every way to compress a layer. Nothing outside changes, what is
// accepted is the same for all of them (in `make test` each meets one of each snapshotter), and neither time nor memory follows what a layer claims. It runs in a mount namespace, in which /etc is
// a canary too.
func TestHostileLayers(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		hostileLayers(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts over /etc in a namespace of its own and must run as root")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHostileLayers$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), insideVar+"=yes", "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestHostileLayers")) {
		t.Fatalf("%v\n%s", err, out)
	}
	rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	if rss > most {
		t.Errorf("%d KiB of memory were used, %d are allowed", rss, most)
	}
	torture.Figure(t, "T1", "the process that unpacked them used at most %d MiB of memory", rss>>10)
}

// maker makes one snapshotter over a store.
type maker struct {
	name string
	make func(*store.Store, func(context.Context, layer.Layer) (io.ReadCloser, error)) (snapshot.Snapshotter, error)
}

func makers() []maker {
	lim := layer.Limits{Bytes: layertest.MaxBytes, Entries: layertest.MaxEntries}
	return []maker{
		{"overlay", func(st *store.Store, blob func(context.Context, layer.Layer) (io.ReadCloser, error)) (snapshot.Snapshotter, error) {
			return overlay.New(overlay.Options{Store: st, Blob: blob, Limits: lim})
		}},
		{"native", func(st *store.Store, blob func(context.Context, layer.Layer) (io.ReadCloser, error)) (snapshot.Snapshotter, error) {
			return native.New(native.Options{Store: st, Blob: blob, Limits: lim})
		}},
	}
}

// codecs are the ways in which layers come.
func codecs() map[string]func(io.Writer) (io.WriteCloser, error) {
	return map[string]func(io.Writer) (io.WriteCloser, error){
		"plain": func(w io.Writer) (io.WriteCloser, error) { return plain{w}, nil },
		"gzip":  func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zstd":  func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)) },
	}
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// lies are what is delivered for an honest layer instead of its bytes: rows A12 and A13.
var lies = map[string]func([]byte) []byte{
	"bytes of another layer": func(b []byte) []byte { return bytes.Replace(b, []byte("honest"), []byte("untrue"), 1) },
	"half of it":             func(b []byte) []byte { return b[:len(b)/2] },
	"without its end":        func(b []byte) []byte { return b[:len(b)-1024] },
	"nothing":                func([]byte) []byte { return nil },
	"bytes after its end":    func(b []byte) []byte { return append(bytes.Clone(b), "more"...) },
	"zeros after its end":    func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 2*layertest.MaxBytes)...) },
}

// bench is one snapshotter over one store with layers compressed in one way.
type bench struct {
	name  string
	sn    snapshot.Snapshotter
	blobs map[digest.Digest][]byte
	enc   func(io.Writer) (io.WriteCloser, error)
}

func hostileLayers(t *testing.T) {
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("tmpfs", "/etc", "tmpfs", 0, ""))
	root := t.TempDir()
	canaries := []string{filepath.Join(root, "out"), "/etc"}
	var benches []*bench
	at := filepath.Join(root, "out", "side")
	for _, m := range makers() {
		for codec, enc := range codecs() {
			b := &bench{name: m.name + " of " + codec, blobs: map[digest.Digest][]byte{}, enc: enc}
			dir := filepath.Join(at, m.name+codec)
			must(t, os.MkdirAll(dir, 0o755))
			st, err := store.Open(filepath.Join(dir, "store"))
			must(t, err)
			defer func() {
				for _, p := range st.Check(t.Context(), true) {
					t.Errorf("%s: check: %v", b.name, p)
				}
				must(t, st.Close())
			}()
			b.sn, err = m.make(st, b.blob)
			must(t, err)
			benches = append(benches, b)
		}
	}
	for _, dir := range append(canaries, at, filepath.Join(root, "out/etc")) {
		must(t, os.MkdirAll(dir, 0o755))
		for _, name := range []string{"passwd", "x"} {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte("canary"), 0o640))
		}
	}
	was := state(t, canaries)
	cases, tries := 0, 0
	var slowest time.Duration
	one := func(row, name string, f func(t *testing.T, b *bench) string, check func(t *testing.T, got string)) {
		cases++
		t.Run(row+" "+name, func(t *testing.T) {
			some, first := benches, ""
			if !torture.On() {
				// One of each snapshotter, by turns.
				n := len(benches) / 2
				some = []*bench{benches[cases%n], benches[n+cases/n%n]}
			}
			for i, b := range some {
				tries++
				begin := time.Now()
				got := f(t, b)
				took := time.Since(begin)
				if slowest = max(slowest, took); took > longest {
					t.Errorf("%s took %v", b.name, took)
				}
				if i == 0 {
					first = got
					check(t, got)
				} else if got != first {
					t.Errorf("%s makes of it\n%s\n%s makes\n%s", b.name, got, some[0].name, first)
				}
			}
			if is := state(t, canaries); is != was {
				t.Fatalf("something outside changed: it was\n%s\nand is\n%s", was, is)
			}
		})
	}
	for _, c := range layertest.Hostile() {
		one(c.Row, c.Name, func(t *testing.T, b *bench) string { return b.apply(t, c.Lower, c.Layer) }, func(t *testing.T, got string) {
			if is := got == refused; c.Verdict == layertest.Refused && !is || c.Verdict == layertest.Shown && is {
				t.Errorf("verdict %d wanted: %s", c.Verdict, got)
			} else if want := shown(c.Files); c.Verdict == layertest.Shown && contents(got) != want {
				t.Errorf("the files are\n%s, not\n%s", contents(got), want)
			}
		})
	}
	for name, lie := range lies {
		one("A12", name, func(t *testing.T, b *bench) string {
			return b.lie(t, []layertest.Entry{layertest.File("f", "honest "+b.name)}, lie)
		}, func(t *testing.T, got string) {
			if got != refused {
				t.Errorf("accepted: %s", got)
			}
		})
	}
	if cases < 120 {
		t.Errorf("there are only %d cases", cases)
	}
	torture.Figure(t, "T1", "%d named hostile layers, each on overlay and native, as gzip, zstd and plain: %d times unpacked or refused, the same for all six, "+
		"nothing outside changed, the slowest took %.2f s", cases, tries, slowest.Seconds())
}

func (b *bench) blob(_ context.Context, l layer.Layer) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b.blobs[l.DiffID])), nil
}

// add keeps what is delivered for a layer.
func (b *bench) add(t *testing.T, diffID digest.Digest, archive []byte) layer.Layer {
	t.Helper()
	var blob bytes.Buffer
	w, err := b.enc(&blob)
	must(t, err)
	_, err = w.Write(archive)
	must(t, errors.Join(err, w.Close()))
	b.blobs[diffID] = blob.Bytes()
	return layer.Layer{DiffID: diffID}
}

const refused = "refused"

// apply makes a root filesystem of layers and describes it.
func (b *bench) apply(t *testing.T, layers ...[]layertest.Entry) string {
	t.Helper()
	var chain []layer.Layer
	for _, entries := range layers {
		if entries == nil {
			continue
		}
		archive, err := layertest.Tar(entries...)
		must(t, err)
		chain = append(chain, b.add(t, digest.FromBytes(archive), archive))
	}
	defer clear(b.blobs)
	return b.open(t, chain)
}

// lie delivers other bytes than those of the layer.
func (b *bench) lie(t *testing.T, entries []layertest.Entry, lie func([]byte) []byte) string {
	t.Helper()
	archive, err := layertest.Tar(entries...)
	must(t, err)
	defer clear(b.blobs)
	return b.open(t, []layer.Layer{b.add(t, digest.FromBytes(archive), lie(archive))})
}

func (b *bench) open(t *testing.T, chain []layer.Layer) string {
	t.Helper()
	ro, err := b.sn.Open(t.Context(), chain)
	if err != nil {
		return refused
	}
	defer func() { must(t, ro.Release()) }()
	rw, err := ro.NewRWLayer()
	must(t, err)
	defer func() { must(t, rw.Release()) }()
	return describe(t, rw.Root(), snapshot.OwnersOf(rw))
}

// describe lists directories, links and files; times, owners, modes and what is none of these are in tables of some snapshotters.
func describe(t *testing.T, root string, owners *fakeroot.Table) string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, text := strings.TrimPrefix(strings.TrimPrefix(path, root), "/"), ""
		switch d.Type() {
		case fs.ModeDir:
		case fs.ModeSymlink:
			if text, err = os.Readlink(path); err != nil {
				return err
			}
		case 0:
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			if owners != nil && owners.Of(&st).Type != 0 {
				return nil // stands for a device, or the like
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(data)
		default:
			return nil
		}
		out = append(out, fmt.Sprintf("%c %q=%q", d.Type().String()[0], name, text))
		return nil
	}))
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// contents are the lines of describe that are about files.
func contents(listing string) string {
	var out []string
	for line := range strings.Lines(listing) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "- ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// shown says the files of a case as describe does.
func shown(files string) string {
	var out []string
	for file := range strings.SplitSeq(files, " ") {
		if name, content, ok := strings.Cut(file, "="); ok {
			out = append(out, fmt.Sprintf("- %q=%q", name, content))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// state is everything that can be known of directories, but for the stores in them.
func state(t *testing.T, dirs []string) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range dirs {
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.Name() == "store" {
				return filepath.SkipDir
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s %d %o %d:%d %d %d %v %v", path, st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim)
			if d.Type().IsRegular() {
				data, err := os.ReadFile(path)
				fmt.Fprintf(&b, " %q\n", data)
				return err
			}
			b.WriteByte('\n')
			return nil
		}))
	}
	return b.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
