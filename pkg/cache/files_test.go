package cache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi
}

// openFiles opens the memory as if that happened some time later than it does.
func openFiles(t *testing.T, c *Cache, root string, later time.Duration) *Files {
	t.Helper()
	f, err := c.Files(root)
	if err != nil {
		t.Fatal(err)
	}
	f.opened = f.opened.Add(later)
	return f
}

func TestFiles(t *testing.T) {
	c := New(newStore(t))
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write(t, path, "content")
	old := stat(t, path)
	want := digest.FromString("content")

	f := openFiles(t, c, dir, time.Hour)
	if _, ok := f.Digest("file", old); ok {
		t.Error("an empty memory knew a file")
	}
	f.Put("file", old, want)
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}

	f = openFiles(t, c, dir, time.Hour)
	if got, ok := f.Digest("file", old); !ok || got != want {
		t.Errorf("%s, %v", got, ok)
	}
	if _, ok := f.Digest("other", old); ok {
		t.Error("another path with the same stat hit")
	}
	if _, ok := openFiles(t, c, dir+"x", 0).Digest("file", old); ok {
		t.Error("another context hit")
	}

	changes := map[string]func(){
		"same length, mtime put back": func() {
			write(t, path, "CONTENT")
			if err := os.Chtimes(path, time.Time{}, old.ModTime()); err != nil {
				t.Fatal(err)
			}
		},
		"longer": func() { write(t, path, "content and more") },
		"replaced by rename": func() {
			write(t, path+".new", "CONTENT")
			if err := os.Chtimes(path+".new", time.Time{}, old.ModTime()); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"now a directory": func() {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, name := range []string{"same length, mtime put back", "longer", "replaced by rename", "now a directory"} {
		before := stat(t, path)
		changes[name]()
		if after := stat(t, path); os.SameFile(before, after) && after.Size() == before.Size() {
			// The kernel's clock counts in ticks: without a tick between, nobody could tell the two files from each other.
			waitForTick(t, dir)
			changes[name]()
		}
		if got, ok := f.Digest("file", stat(t, path)); ok {
			t.Errorf("%s: still %s", name, got)
		}
	}
}

// waitForTick returns when the file system's clock has moved on.
func waitForTick(t *testing.T, dir string) {
	t.Helper()
	probe := filepath.Join(dir, "probe")
	write(t, probe, "")
	first := stat(t, probe).ModTime()
	for !stat(t, probe).ModTime().After(first) {
		write(t, probe, "x")
	}
}

// A file whose times are young, or in the future, may be changed again without its times changing: it is not remembered.
func TestFilesRacyTimes(t *testing.T) {
	c := New(newStore(t))
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write(t, path, "content")
	now := time.Now()
	for _, test := range []struct {
		name   string
		mtime  time.Time
		opened time.Duration
		known  bool
	}{
		{"just written", now, 0, false},
		{"old mtime, young ctime", now.Add(-time.Hour), 0, false},
		{"within the margin", now, racyMargin / 2, false},
		{"old", now, time.Minute, true},
		{"old ctime, future mtime", now.Add(time.Hour), time.Minute, false},
	} {
		if err := os.Chtimes(path, time.Time{}, test.mtime); err != nil {
			t.Fatal(err)
		}
		f := openFiles(t, c, dir, test.opened)
		f.Put("file", stat(t, path), digest.FromString("content"))
		if _, ok := f.Digest("file", stat(t, path)); ok != test.known {
			t.Errorf("%s: known is %v", test.name, ok)
		}
	}
}

func TestFilesForget(t *testing.T) {
	c := New(newStore(t))
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write(t, path, "content")
	fi := stat(t, path)
	f := openFiles(t, c, dir, time.Hour)
	f.Put("unused", fi, digest.FromString("content"))
	f.Put("used", fi, digest.FromString("content"))
	for i := range maxIdle + 2 {
		f.Put(fmt.Sprint("new", i), fi, digest.FromString("content"))
		if err := f.Save(); err != nil {
			t.Fatal(err)
		}
		f = openFiles(t, c, dir, time.Hour)
		if _, ok := f.Digest("used", fi); !ok {
			t.Fatalf("round %d: forgot a file in use", i)
		}
	}
	if _, ok := f.Digest("unused", fi); ok {
		t.Error("still knows a file that nobody asks for")
	}
}

func TestFilesDamaged(t *testing.T) {
	st := newStore(t)
	c := New(st)
	whole := encodeFiles(map[string]fileEntry{"a": {stat: fileStat{size: 1, mtime: -2, ctime: 3, ino: 4, dev: 5}}, "b/c": {}})
	if got, err := decodeFiles(whole); err != nil || len(got) != 2 || got["a"].stat.mtime != -2 {
		t.Fatalf("%v, %v", got, err)
	}
	for n := range whole {
		got, err := decodeFiles(whole[:n])
		if err == nil && len(got) == 2 {
			t.Errorf("cut to %d: %v", n, got)
		}
	}
	for _, data := range []string{"", "x", filesVersion + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", filesVersion + "\xff"} {
		if err := st.PutRecord(filesBucket, "/dir", []byte(data)); err != nil {
			t.Fatal(err)
		}
		if f, err := c.Files("/dir"); err != nil || len(f.entries) > 0 {
			t.Errorf("%q: %v", data, err)
		}
	}
}

func BenchmarkFiles20k(b *testing.B) {
	entries := map[string]fileEntry{}
	for i := range 20_000 {
		entries[fmt.Sprintf("some/directory/of/the/context/%d/file%d.go", i%100, i)] = fileEntry{
			stat: fileStat{size: 1000, mtime: 1700000000_000000000, ctime: 1700000000_000000000, ino: uint64(i), dev: 65025},
		}
	}
	for b.Loop() {
		if _, err := decodeFiles(encodeFiles(entries)); err != nil {
			b.Fatal(err)
		}
	}
}
