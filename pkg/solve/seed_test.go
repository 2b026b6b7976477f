package solve

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A cache mount that begins as a copy is seen when it is whole: before that, another build could exchange a directory of it for a link to the
// outside (B5), and would take half of it for all.
func TestSeededCacheIsSeenWhole(t *testing.T) {
	w := newWorld(t)
	m := &mounter{solver: &solver{Options: Options{Store: w.store}}}
	from := t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "f"), []byte("seed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.seed("key", filepath.Join(from, "f")); err == nil {
		t.Error("a file was taken for a directory")
	}
	if dir, err := w.store.FindCacheDir("key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what could not be filled is there: %s, %v", dir, err)
	}
	dir, err := m.seed("key", from)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(data) != "seed" {
		t.Errorf("%q, %v", data, err)
	}
	if found, err := w.store.FindCacheDir("key"); err != nil || found != dir {
		t.Errorf("%s, %v; want %s", found, err, dir)
	}
	if _, err := m.seed("key", from); err == nil {
		t.Error("a directory that is there was replaced")
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
