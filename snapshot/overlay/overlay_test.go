package overlay_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/cairn-build/cairn/snapshot/overlay"
	"github.com/cairn-build/cairn/snapshot/snapshottest"
)

// insideVar says in which place this process of the test binary runs: "root" or "userns".
const insideVar = "CAIRN_OVERLAY_TEST_INSIDE"

// TestPlaces runs all other tests in the places where builds happen, each in a mount namespace of its own: as real root, and as an
// ordinary user with subordinate ids in a user namespace.
func TestPlaces(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		t.Skip("inside already")
	}
	places := []string{"userns"}
	if os.Geteuid() == 0 {
		places = append(places, "root")
	}
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			args := []string{"-test.v", "-test.skip=^TestPlaces$", "-test.timeout=10m"}
			cmd := exec.Command("/proc/self/exe", args...)
			attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
			switch {
			case place == "userns" && os.Geteuid() == 0:
				// Root can give itself the ids that newuidmap gives an ordinary user.
				attr.Cloneflags |= syscall.CLONE_NEWUSER
				attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 300_000, Size: 65536}}
				attr.GidMappings = attr.UidMappings
				attr.GidMappingsEnableSetgroups = true
				attr.Credential = &syscall.Credential{}
			case place == "userns":
				cmd = exec.Command("unshare", append([]string{"--user", "--mount", "--map-auto", "--map-root-user", "/proc/self/exe"}, args...)...)
				attr = nil
			}
			cmd.SysProcAttr = attr
			dir := t.TempDir()
			if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(os.Environ(), insideVar+"="+place, "TMPDIR="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			} else if !bytes.Contains(out, []byte("--- PASS: TestSnapshotter/")) {
				t.Errorf("nothing was tested:\n%s", out)
			}
		})
	}
}

// inside skips a test that TestPlaces runs.
func inside(t *testing.T) {
	if os.Getenv(insideVar) == "" {
		t.Skip("run by TestPlaces")
	}
	// systemd makes mounts propagate; here they must not.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

func newSnapshotter(t *testing.T, st *store.Store, blob snapshottest.BlobFunc) snapshot.Snapshotter {
	sn, err := overlay.New(overlay.Options{Store: st, Blob: blob})
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

func TestSnapshotter(t *testing.T) {
	inside(t)
	snapshottest.Run(t, newSnapshotter)
}

// The suite once more in a directory whose name is full of what means something in mount options, and too long for one of them.
func TestHostilePaths(t *testing.T) {
	inside(t)
	dir := filepath.Join(t.TempDir(), "a,b:c=d\\e f\n", strings.Repeat("long", 50), strings.Repeat("long", 50))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	st, chain := newChain(t, dir, 3)
	checkChain(t, newSnapshotter(t, st, storeBlob(st)), chain)
}

func storeBlob(st *store.Store) snapshottest.BlobFunc {
	return func(_ context.Context, l layer.Layer) (io.ReadCloser, error) { return st.OpenBlob(l.Descriptor.Digest) }
}

// newChain makes layers with one file each; every layer but the lowest removes the file of the one below it if its number is odd.
func newChain(t *testing.T, dir string, n int) (*store.Store, []layer.Layer) {
	t.Helper()
	st, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	var chain []layer.Layer
	for i := range n {
		blob, err := st.NewBlob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w, err := layer.NewWriter(blob, layer.Compression{Type: "uncompressed"})
		if err != nil {
			t.Fatal(err)
		}
		items := []layer.Item{{Entry: layer.Entry{Path: "f" + strconv.Itoa(i), Type: layer.File, Mode: 0o644}}}
		if i%2 == 1 {
			items = append(items, layer.Item{Entry: layer.Entry{Path: "f" + strconv.Itoa(i-1), Type: layer.Whiteout}})
		}
		if err := layer.WriteAll(context.Background(), w, items); err != nil {
			t.Fatal(err)
		}
		diffID, mediaType, _, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		desc, err := blob.Commit("")
		if err != nil {
			t.Fatal(err)
		}
		desc.MediaType = mediaType
		chain = append(chain, layer.Layer{DiffID: diffID, Descriptor: desc})
	}
	return st, chain
}

// checkChain opens what newChain made, and writes a layer on top.
func checkChain(t *testing.T, sn snapshot.Snapshotter, chain []layer.Layer) {
	t.Helper()
	ro, err := sn.Open(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	rw, err := ro.NewRWLayer()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(rw.Root())
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	for i := range chain {
		if i%2 == 1 || i == len(chain)-1 {
			want = append(want, fmt.Sprint("f", i))
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there is %q, not %q", got, want)
	}
	if err := os.Remove(filepath.Join(rw.Root(), "f1")); err != nil {
		t.Error(err)
	}
	committed, err := rw.Commit()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(rw.Release(), committed.Release(), ro.Release()); err != nil {
		t.Error(err)
	}
}

// What fits in one page of options, what needs the new mount API, and what needs two mounts.
func TestManyLayers(t *testing.T) {
	inside(t)
	for _, n := range []int{260, 510} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			st, chain := newChain(t, t.TempDir(), n)
			checkChain(t, folding(t, st, 1), chain)
		})
	}
}

func TestNewChecksOptions(t *testing.T) {
	st, _ := newChain(t, t.TempDir(), 0)
	blob := storeBlob(st)
	for _, o := range []overlay.Options{{}, {Store: st}, {Blob: blob}, {Store: st, Blob: blob, Jobs: -1}} {
		if _, err := overlay.New(o); err == nil {
			t.Errorf("New(%+v) is no error", o)
		}
	}
}

// Times after the limit are cut in the layer that is committed.
func TestClamp(t *testing.T) {
	inside(t)
	limit := time.Unix(1_000_000_000, 0)
	st, _ := newChain(t, t.TempDir(), 0)
	sn, err := overlay.New(overlay.Options{Store: st, Blob: storeBlob(st), Clamp: &limit})
	if err != nil {
		t.Fatal(err)
	}
	ro, err := sn.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rw, err := ro.NewRWLayer()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rw.Root(), "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	committed, err := rw.Commit()
	if err != nil {
		t.Fatal(err)
	}
	ix, err := st.LayerIndex(committed.DiffID())
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := ix.Lookup("file"); !ok || !e.ModTime.Equal(limit) {
		t.Errorf("%+v", e)
	}
	if err := errors.Join(rw.Release(), committed.Release(), ro.Release()); err != nil {
		t.Error(err)
	}
}

// holdVar makes this process of the test binary open a writable layer in the store of that name, say so, and wait to be killed.
const holdVar = "CAIRN_OVERLAY_TEST_HOLD"

// TestDescriptors has every mount give back the descriptors by which it named its layers: a build of some hundred steps would run out of them.
func TestDescriptors(t *testing.T) {
	inside(t)
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s := newSnapshotter(t, st, storeBlob(st))
	mount := func() {
		t.Helper()
		ro, err := s.Open(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		rw, err := ro.NewRWLayer()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(rw.Release(), ro.Release()); err != nil {
			t.Fatal(err)
		}
	}
	open := func() int {
		t.Helper()
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	mount()
	before := open()
	for range 10 {
		mount()
	}
	// Less may be open: what tests before have left to the garbage collector.
	if after := open(); after > before {
		t.Errorf("%d descriptors are open after ten mounts, %d before", after, before)
	}
}

func TestMain(m *testing.M) {
	if root := os.Getenv(holdVar); root != "" {
		rw, err := hold(root)
		fmt.Println(err)
		// Until it is killed. Waiting for nothing would be a deadlock, and what nobody uses any more is closed.
		time.Sleep(time.Hour)
		fmt.Println(rw)
	}
	os.Exit(m.Run())
}

// hold mounts a root filesystem of a store and writes into it. What it returns keeps the store open.
func hold(root string) (any, error) {
	st, err := store.Open(root)
	if err != nil {
		return nil, err
	}
	sn, err := overlay.New(overlay.Options{Store: st, Blob: storeBlob(st)})
	if err != nil {
		return nil, err
	}
	ro, err := sn.Open(context.Background(), nil)
	if err != nil {
		return nil, err
	}
	rw, err := ro.NewRWLayer()
	if err != nil {
		return nil, err
	}
	return []any{st, rw}, os.WriteFile(filepath.Join(rw.Root(), "file"), nil, 0o644)
}

// Of a process that is killed with a root filesystem mounted nothing is left once the store has been opened again.
func TestKilled(t *testing.T) {
	inside(t)
	root := filepath.Join(t.TempDir(), "store")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holdVar+"="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || said != "<nil>\n" {
		t.Errorf("%q, %v", said, err)
	}
	// Somebody else at work leaves it alone.
	st, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	pattern := filepath.Join(root, "tmp", "*", "*", "upper", "file")
	if found, _ := filepath.Glob(pattern); len(found) != 1 {
		t.Errorf("%s: %q", pattern, found)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if st, err = store.Open(root); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(mounts, []byte(root)) {
		t.Errorf("still mounted: %s, %v", mounts, err)
	}
}

// The cost of a step that writes one small file, without what the step itself does.
func BenchmarkStep(b *testing.B) {
	if os.Getenv(insideVar) == "" {
		b.Skip("run in a mount namespace with " + insideVar + "=root")
	}
	st, err := store.Open(filepath.Join(b.TempDir(), "store"))
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	sn, err := overlay.New(overlay.Options{Store: st, Blob: storeBlob(st)})
	if err != nil {
		b.Fatal(err)
	}
	top, err := sn.Open(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if i%20 == 0 {
			if top, err = sn.Open(b.Context(), nil); err != nil {
				b.Fatal(err)
			}
		}
		rw, err := top.NewRWLayer()
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(rw.Root(), fmt.Sprint("f", i)), nil, 0o644); err != nil {
			b.Fatal(err)
		}
		if top, err = rw.Commit(); err != nil {
			b.Fatal(err)
		}
		if err := rw.Release(); err != nil {
			b.Fatal(err)
		}
	}
}
