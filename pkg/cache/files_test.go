package cache

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
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
	save(t, f, seenFile{"file", old, want})

	f = openFiles(t, c, dir, time.Hour)
	if got, ok := f.Digest("file", old); !ok || got.Digest() != want {
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
		if _, ok := f.Digest("file", stat(t, path)); ok {
			t.Fatalf("%s: an empty memory knew a file", test.name)
		}
		save(t, f, seenFile{"file", stat(t, path), digest.FromString("content")})
		f = openFiles(t, c, dir, 0)
		if _, ok := f.Digest("file", stat(t, path)); ok != test.known {
			t.Errorf("%s: known is %v", test.name, ok)
		}
		save(t, f)
		if err := c.store.DeleteRecord(filesBucket, dir); err != nil {
			t.Fatal(err)
		}
	}
}

// seenFile is a file as a build has seen it.
type seenFile struct {
	path string
	fi   os.FileInfo
	sum  digest.Digest
}

// namedInfo has a stat under another name.
type namedInfo struct {
	os.FileInfo
	name string
}

func (n namedInfo) Name() string { return n.name }

// save ends the use of a memory as a tree does: files are asked for, then they are handed over sorted.
func save(t *testing.T, f *Files, files ...seenFile) {
	t.Helper()
	for _, s := range files {
		f.Digest(s.path, s.fi)
	}
	slices.SortFunc(files, func(a, b seenFile) int {
		return cmp.Or(strings.Compare(filepath.Dir(a.path), filepath.Dir(b.path)), strings.Compare(filepath.Base(a.path), filepath.Base(b.path)))
	})
	err := f.Save(func(visit func(dir string, fi fs.FileInfo, sum layer.Sum) error) error {
		for _, s := range files {
			if err := visit(filepath.Dir(s.path), namedInfo{s.fi, filepath.Base(s.path)}, layer.SumOf(s.sum)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesForget(t *testing.T) {
	c := New(newStore(t))
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write(t, path, "content")
	fi, sum := stat(t, path), digest.FromString("content")
	f := openFiles(t, c, dir, time.Hour)
	seen := []seenFile{{"unused", fi, sum}, {"used", fi, sum}}
	for i := range maxIdle + 1 {
		save(t, f, append(seen, seenFile{fmt.Sprint("new", i), fi, sum})...)
		seen = []seenFile{{"used", fi, sum}}
		f = openFiles(t, c, dir, time.Hour)
		if _, ok := f.Digest("used", fi); !ok {
			t.Fatalf("round %d: forgot a file in use", i)
		}
		if _, ok := openFiles(t, c, dir, time.Hour).Digest("unused", fi); !ok {
			t.Fatalf("round %d: forgot a file too soon", i)
		}
	}
	save(t, f, seenFile{"used", fi, sum}, seenFile{"last", fi, sum})
	if _, ok := openFiles(t, c, dir, time.Hour).Digest("unused", fi); ok {
		t.Error("still knows a file that nobody asks for")
	}
}

// Where all was remembered, or what is new cannot be, nothing is written: entries do not become idle by it either.
func TestFilesNothingNew(t *testing.T) {
	st := newStore(t)
	c := New(st)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write(t, path, "content")
	fi, sum := stat(t, path), digest.FromString("content")
	save(t, openFiles(t, c, dir, time.Hour), seenFile{"a/used", fi, sum}, seenFile{"b", fi, sum})
	before, err := st.Record(filesBucket, dir)
	if err != nil {
		t.Fatal(err)
	}
	save(t, openFiles(t, c, dir, 2*time.Hour), seenFile{"a/used", fi, sum})
	save(t, openFiles(t, c, dir, 0), seenFile{"young", fi, sum})
	save(t, openFiles(t, c, dir, 0))
	if after, err := st.Record(filesBucket, dir); err != nil || string(after) != string(before) {
		t.Errorf("the record has %d bytes, had %d, %v", len(after), len(before), err)
	}
	// A file that has changed and is young now leaves what was remembered of it as something that was not asked for.
	write(t, path, "CONTENT")
	young := stat(t, path)
	f := openFiles(t, c, dir, 0)
	f.opened = young.ModTime()
	save(t, f, seenFile{"b", young, digest.FromString("CONTENT")}, seenFile{"new", fi, sum})
	f = openFiles(t, c, dir, time.Hour)
	if _, ok := f.Digest("b", young); ok {
		t.Error("a young file is remembered")
	}
	if got, ok := f.Digest("b", fi); !ok || got.Digest() != sum {
		t.Errorf("%s, %v", got, ok)
	}
	save(t, f)
}

// Many files, in many blocks, are merged with those of former builds: asked for again, changed, new, and not asked for. Directories whose names
// begin alike are the hard part of the order.
func TestFilesMerge(t *testing.T) {
	c := New(newStore(t))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "one"), "1")
	write(t, filepath.Join(dir, "other"), "22")
	one, other := stat(t, filepath.Join(dir, "one")), stat(t, filepath.Join(dir, "other"))
	var all []string
	for i := range 300 {
		for _, d := range []string{"", "a/", "a/b/", "a!/", "a.d/", "é/"} {
			all = append(all, fmt.Sprintf("%sfile-%d", d, i*7919%300))
		}
	}
	type known struct {
		fi   os.FileInfo
		sum  digest.Digest
		idle int
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	want := map[string]known{}
	for round := range 12 {
		f := openFiles(t, c, dir, time.Hour)
		var seen []seenFile
		asked := map[string]bool{}
		for _, name := range all {
			if p := rnd.IntN(10); p < 6 {
				fi := one
				if p == 0 {
					fi = other
				}
				sum := digest.FromString(fmt.Sprint(name, fi.Size()))
				seen = append(seen, seenFile{name, fi, sum})
				asked[name] = true
			}
		}
		for _, s := range seen {
			w, ok := want[s.path]
			ok = ok && w.fi == s.fi
			if got, hit := f.Digest(s.path, s.fi); hit != ok || hit && got.Digest() != s.sum {
				t.Fatalf("round %d: %s is %s, %t; want %t", round, s.path, got, hit, ok)
			}
		}
		if f.old != nil && len(f.old.blocks) < 10 {
			t.Fatalf("only %d blocks", len(f.old.blocks))
		}
		save(t, f, seen...)
		for name, w := range want {
			if w.idle++; w.idle > maxIdle {
				delete(want, name)
			} else {
				want[name] = w
			}
		}
		for _, s := range seen {
			want[s.path] = known{fi: s.fi, sum: s.sum}
		}
	}
	f := openFiles(t, c, dir, time.Hour)
	n := 0
	for e := f.old.entries(); e.more(); e.next() {
		d, base, _ := strings.Cut(e.key(), "\x00")
		if w, ok := want[filepath.Join(d, base)]; !ok || w.sum != e.entry().sum.Digest() || w.idle != int(e.entry().idle) {
			t.Fatalf("%q has %+v, want %+v", e.key(), e.entry(), w)
		}
		n++
	}
	if n != len(want) {
		t.Errorf("%d files are remembered, want %d", n, len(want))
	}
	save(t, f)
}

// What does not come sorted is an error, and what was remembered stays.
func TestFilesUnsorted(t *testing.T) {
	c := New(newStore(t))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "content")
	fi, sum := stat(t, filepath.Join(dir, "file")), digest.FromString("content")
	save(t, openFiles(t, c, dir, time.Hour), seenFile{"b", fi, sum})
	f := openFiles(t, c, dir, time.Hour)
	f.Digest("c", fi)
	err := f.Save(func(visit func(string, fs.FileInfo, layer.Sum) error) error {
		return errors.Join(visit("z", fi, layer.SumOf(sum)), visit("a", fi, layer.SumOf(sum)))
	})
	if err == nil {
		t.Error("saved")
	}
	f = openFiles(t, c, dir, time.Hour)
	if _, ok := f.Digest("b", fi); !ok {
		t.Error("forgot what was remembered")
	}
	save(t, f)
}

// table is a table of n files, encoded.
func table(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newFileTableWriter(&b)
	for i := range n {
		e := fileEntry{stat: fileStat{size: 1, mtime: -2, ctime: 3, ino: uint64(i), dev: 5}, sum: sha256.Sum256([]byte{byte(i)}), idle: 1}
		if err := w.add(fileKey("some/directory/of/the/context", fmt.Sprintf("file%06d.go", i)), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// count opens a table and counts what can be read of it.
func count(data []byte) (n int) {
	t, err := openFileTable(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return 0
	}
	for e := t.entries(); e.more(); e.next() {
		n++
	}
	return n
}

func TestFilesDamaged(t *testing.T) {
	st := newStore(t)
	c := New(st)
	whole := table(t, 1000)
	if got := count(whole); got != 1000 {
		t.Fatalf("%d of 1000", got)
	}
	for n := range whole {
		if got := count(whole[:n]); got != 0 {
			t.Errorf("cut to %d of %d: %d entries", n, len(whole), got)
		}
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "content")
	fi, sum := stat(t, filepath.Join(dir, "file")), digest.FromString("content")
	for _, data := range []string{
		"", "x", filesVersion, filesVersion + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "cairn files 1\n" + string(whole[len(filesVersion):]),
		string(whole[:len(whole)-1]), string(whole) + "x", string(whole[:5000]) + string(whole[5001:]),
	} {
		if err := st.PutRecord(filesBucket, dir, []byte(data)); err != nil {
			t.Fatal(err)
		}
		f := openFiles(t, c, dir, time.Hour)
		if f.old != nil {
			t.Errorf("%d bytes %.20q: %d blocks", len(data), data, len(f.old.blocks))
		}
		save(t, f, seenFile{"file", fi, sum})
		f = openFiles(t, c, dir, time.Hour)
		if _, ok := f.Digest("file", fi); !ok {
			t.Errorf("%.20q: nothing is remembered any more", data)
		}
		save(t, f)
	}
	// A bit that the store's seal would show.
	if err := st.PutRecord(filesBucket, dir, whole); err != nil {
		t.Fatal(err)
	}
	records, err := filepath.Glob(filepath.Join(st.Root(), "records", filesBucket, "*"))
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	data, err := os.ReadFile(records[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(records[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	f := openFiles(t, c, dir, time.Hour)
	if f.old != nil {
		t.Error("a damaged record is read")
	}
	save(t, f)
}

// FuzzFileTable: whatever a table holds, reading it ends, in order, and what can be read can be merged.
func FuzzFileTable(f *testing.F) {
	f.Add(table(f, 0))
	f.Add(table(f, 3))
	f.Add(table(f, 500))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := openFileTable(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		w := newFileTableWriter(io.Discard)
		for e := table.entries(); e.more(); e.next() {
			if err := w.add(e.key(), e.entry()); err != nil {
				t.Fatal(err)
			}
			if got, ok := table.lookup(e.key()); !ok || got != e.entry() {
				t.Fatalf("%q is %+v by name and %+v in its place", e.key(), got, e.entry())
			}
		}
		if err := w.close(); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkFiles20k(b *testing.B) {
	for b.Loop() {
		if n := count(table(b, 20_000)); n != 20_000 {
			b.Fatal(n)
		}
	}
}
