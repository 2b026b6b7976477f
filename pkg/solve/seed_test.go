package solve

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/plan"
	"golang.org/x/sys/unix"
)

// A cache mount is seen when it is whole: before that, another build could exchange a directory of it for a link to the outside (B5), and would
// take half of it for all.
func TestCacheIsSeenWhole(t *testing.T) {
	w := newWorld(t)
	m := &mounter{solver: &solver{Options: Options{Store: w.store}}}
	lasting := func(from string) (string, error) {
		dir, _, err := m.lasting(t.Context(), "key", func(dir string, owners *fakeroot.Table) error {
			if there, err := w.store.FindCacheDir("key"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it is seen before it is whole: %s, %v", there, err)
			}
			return seed(dir, owners, from, nil)
		})
		return dir, err
	}
	from := t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "f"), []byte("seed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := lasting(filepath.Join(from, "f")); err == nil {
		t.Error("a file was taken for a directory")
	}
	if dir, err := w.store.FindCacheDir("key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what could not be filled is there: %s, %v", dir, err)
	}
	dir, err := lasting(from)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(data) != "seed" {
		t.Errorf("%q, %v", data, err)
	}
	if again, err := lasting("nowhere"); err != nil || again != dir {
		t.Errorf("%s, %v; want %s, as it is", again, err, dir)
	}
}

// Whose the files of a new cache mount are is kept before it is seen: a build that is killed then leaves nothing that is root's.
func TestCacheHasOwnersAtOnce(t *testing.T) {
	w := newWorld(t)
	from, said := t.TempDir(), fakeroot.New()
	if err := os.WriteFile(filepath.Join(from, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	key := func(name string) fakeroot.Key {
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			t.Fatal(err)
		}
		return fakeroot.KeyOf(&st)
	}
	said.Set(key(filepath.Join(from, "f")), fakeroot.Meta{UID: 7, GID: 8, Mode: 0o640})
	uid := uint64(5)
	for name, fill := range map[string]func(string, *fakeroot.Table) error{
		"seeded": func(dir string, owners *fakeroot.Table) error { return seed(dir, owners, from, said) },
		"empty":  func(dir string, owners *fakeroot.Table) error { return own(dir, owners, plan.Mount{UID: &uid}, 0o755) },
	} {
		one := &mounter{solver: &solver{Options: Options{Store: w.store}}, owners: fakeroot.New(), caches: map[string]*fakeroot.Table{}}
		dir, _, err := one.lasting(t.Context(), name, fill)
		if err != nil {
			t.Fatal(err)
		}
		// Its mounts are never taken away.
		next := &mounter{solver: one.solver, owners: fakeroot.New(), caches: map[string]*fakeroot.Table{}}
		_, owners, err := next.lasting(t.Context(), name, nil)
		if err != nil {
			t.Fatal(err)
		}
		of, want := filepath.Join(dir, "f"), fakeroot.Meta{UID: 7, GID: 8, Mode: 0o640}
		if name == "empty" {
			of, want = dir, fakeroot.Meta{UID: 5, Mode: 0o755}
		}
		if got, ok := owners.Get(key(of)); !ok || got.UID != want.UID || got.GID != want.GID || got.Mode != want.Mode {
			t.Errorf("%s: %+v, %v; want %+v", name, got, ok, want)
		}
	}
}

// TestLockedCaches: a RUN that mounts one locked cache twice does not wait for itself, and two that mount the same two in either order do not wait
// for each other.
func TestLockedCaches(t *testing.T) {
	w := newWorld(t)
	mount := func(id, target string) string {
		return " --mount=type=cache,sharing=locked,id=" + id + ",target=" + target
	}
	for range 20 {
		w.mustSolve("FROM scratch AS one\nRUN"+mount("a", "/1")+mount("b", "/2")+mount("a", "/3")+" one\n"+
			"FROM scratch AS two\nRUN"+mount("b", "/1")+mount("a", "/2")+" two\n"+
			"FROM scratch\nCOPY --from=one / /\nCOPY --from=two / /\n", func(o *Options) { o.Reuse.NoCache = true })
	}
	if len(w.ran) != 40 {
		t.Errorf("%d commands ran", len(w.ran))
	}
}
