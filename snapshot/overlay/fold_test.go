package overlay_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/cairn-build/cairn/snapshot/native"
	"github.com/cairn-build/cairn/snapshot/overlay"
	"github.com/cairn-build/cairn/snapshot/snapshottest"
)

func folding(t *testing.T, st *store.Store, fold int) snapshot.Snapshotter {
	t.Helper()
	sn, err := overlay.New(overlay.Options{Store: st, Blob: storeBlob(st), Fold: fold})
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

// mounted mounts a chain and unmounts it at the end of the test.
func mounted(t *testing.T, sn snapshot.Snapshotter, chain []layer.Layer) string {
	t.Helper()
	ro, err := sn.Open(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	rw, err := ro.NewRWLayer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(rw.Release(), ro.Release()); err != nil {
			t.Error(err)
		}
	})
	return rw.Root()
}

// TestFoldsShowTheSame changes a root filesystem at random, layer by layer, and mounts the layers folded and as they are.
func TestFoldsShowTheSame(t *testing.T) {
	inside(t)
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			st, _ := newChain(t, t.TempDir(), 0)
			plain, err := folding(t, st, 1).Open(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			rnd := rand.New(rand.NewPCG(seed, 1))
			for i := range 36 {
				rw, err := plain.NewRWLayer()
				if err != nil {
					t.Fatal(err)
				}
				for range 1 + rnd.IntN(12) {
					change(t, rnd, rw.Root())
				}
				if plain, err = rw.Commit(); err != nil {
					t.Fatal(err)
				}
				if err := rw.Release(); err != nil {
					t.Fatal(err)
				}
				if i%12 == 11 {
					for _, fold := range []int{2, 3, 32} {
						snapshottest.Same(t, fmt.Sprintf("%d layers, and folded by %d,", i+1, fold),
							mounted(t, folding(t, st, 1), plain.Chain()), mounted(t, folding(t, st, fold), plain.Chain()))
					}
				}
				if t.Failed() {
					t.FailNow()
				}
			}
		})
	}
}

// change does one of the things that commands do. What cannot be done at a random place is left.
func change(t *testing.T, rnd *rand.Rand, root string) {
	t.Helper()
	place := func() string {
		p := root
		for range 1 + rnd.IntN(3) {
			p = filepath.Join(p, string('a'+rune(rnd.IntN(3))))
		}
		return p
	}
	one, other := place(), place()
	for _, p := range []string{one, other} {
		// A fifo as a directory would be waited for.
		if fi, err := os.Stat(filepath.Dir(p)); err == nil && !fi.IsDir() {
			return
		}
	}
	text := []byte(fmt.Sprint(rnd.Uint64()))
	// A fifo in its place is not waited for.
	writeFile := func(name string, mode fs.FileMode) error {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, mode)
		if err != nil {
			return err
		}
		_, err = f.Write(text)
		return errors.Join(err, f.Close())
	}
	// More is made than is removed.
	for range 2 {
		_ = os.MkdirAll(filepath.Dir(place()), 0o755)
		_ = writeFile(place(), 0o644)
	}
	var err error
	switch rnd.IntN(14) {
	case 0, 1:
		err = os.RemoveAll(one)
	case 2:
		err = os.Rename(one, other)
	case 3:
		err = os.Symlink(filepath.Base(other), one)
	case 4, 12, 13: // two names for one file, new or copied up
		err = errors.Join(os.RemoveAll(other), os.MkdirAll(filepath.Dir(other), 0o755), os.Link(one, other))
		if err == nil {
			_ = os.Link(one, place())
		}
	case 5:
		err = errors.Join(os.Lchown(one, rnd.IntN(100), rnd.IntN(100)), unix.Fchmodat(unix.AT_FDCWD, one, 0o4711, 0))
	case 6:
		err = unix.Setxattr(one, "user.text", text, 0)
	case 7:
		err = unix.Mkfifo(one, 0o600)
	case 8: // a socket, which is in no layer
		err = unix.Mknod(one, unix.S_IFSOCK|0o700, 0)
	case 9: // another kind of thing in its place, and a directory that hides the one before
		err = errors.Join(os.RemoveAll(one), os.MkdirAll(filepath.Join(one, "a", "b"), 0o700))
	case 10:
		err = errors.Join(os.RemoveAll(one), writeFile(one, 0o600))
	case 11:
		err = os.Chtimes(one, time.Time{}, time.Unix(int64(rnd.IntN(1e9)), 5))
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) && errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
}

// TestThousandLayers mounts more layers than the kernel takes, and compares with what package native puts together.
func TestThousandLayers(t *testing.T) {
	inside(t)
	if os.Getenv(insideVar) != "userns" {
		t.Skip("once is enough: in the place that is always there")
	}
	st, chain := newChain(t, t.TempDir(), 1030)
	checkChain(t, folding(t, st, 0), chain)
	sn, err := native.New(native.Options{Store: st, Blob: storeBlob(st)})
	if err != nil {
		t.Fatal(err)
	}
	other, err := sn.Open(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	rw, err := other.NewRWLayer()
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Release()
	want, got := files(t, rw.Root()), files(t, mounted(t, folding(t, st, 0), chain))
	if !maps.Equal(got, want) || len(got) != len(chain)/2 {
		t.Errorf("%d files are there, %d should be: %q", len(got), len(want), slices.Sorted(maps.Keys(got)))
	}
}

// files are the regular files of a tree, with their content.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(root, path))
		out[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLargeLayersAreNotFolded looks at what is in the store after a mount.
func TestLargeLayersAreNotFolded(t *testing.T) {
	inside(t)
	st, chain := newChain(t, t.TempDir(), 70)
	ro, err := folding(t, st, 1).Open(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	rw, err := ro.NewRWLayer()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(rw.Root(), "large"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(5<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	ro, err = rw.Commit()
	if err = errors.Join(err, rw.Release()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing is made
		mounted(t, folding(t, st, 32), ro.Chain())
		all, err := filepath.Glob(filepath.Join(st.Root(), "snapshots/*/*"))
		if err != nil {
			t.Fatal(err)
		}
		// Twice 32, six that are too few, and the large one.
		if len(all) != 71+2 {
			t.Errorf("%d snapshots", len(all))
		}
		held, err := filepath.Glob(filepath.Join(st.Root(), "snapshots/*/*/large"))
		if err != nil || len(held) != 1 {
			t.Errorf("the large file is in %q, %v", held, err)
		}
	}
}
