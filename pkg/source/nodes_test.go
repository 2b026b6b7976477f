package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// manyFiles makes a tree whose nodes are more than are kept in memory: 24 directories, of which "d00" has more names than fit into one span. The
// content of a file is its name.
func manyFiles(t testing.TB) (dir string, files []string) {
	t.Helper()
	dir = t.TempDir()
	for d := range 24 {
		n := 100
		if d == 0 {
			n = 2*maxSpan + 10
		}
		sub := fmt.Sprintf("d%02d", d)
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			name := fmt.Sprintf("%s/%s-%d", sub, strings.Repeat("name", 12), i)
			files = append(files, name)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir, files
}

// openTestTree opens a tree and counts the files its nodes are put in.
func openTestTree(t testing.TB, dir string) (tree *dirTree, spilled *int) {
	t.Helper()
	spilled = new(int)
	tree, err := newDirTree(dir, func() (*os.File, error) {
		*spilled++
		return os.CreateTemp(t.TempDir(), "")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	return tree, spilled
}

// The nodes of many files lie in a file. Names, stats and digests are as they were, whichever way and in whatever order they are asked for.
func TestManyFiles(t *testing.T) {
	dir, files := manyFiles(t)
	tree, spilled := openTestTree(t, dir)
	if got := names(t, tree, "."); len(got) != len(files)+24 {
		t.Fatalf("%d names, want %d", len(got), len(files)+24)
	}
	if *spilled != 1 {
		t.Fatalf("%d files were made for the nodes: %d bytes of them", *spilled, tree.nodes.bytes.Len())
	}
	if n := len(tree.dirs) + len(tree.early); n != 25 {
		t.Errorf("%d names are kept in memory, want the 25 directories", n)
	}
	// Each from another directory than the one before, so that no span is still held.
	for i := range files {
		name := files[i*101%len(files)]
		want, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		e, err := tree.Lstat(name)
		if err != nil || e.Path != name || e.Size != want.Size() || !e.ModTime.Equal(want.ModTime()) || e.Sum != (layer.Sum{}) {
			t.Fatalf("%s is %+v, %v", name, e, err)
		}
		if d, err := tree.Digest(t.Context(), name); err != nil || d != digest.FromString(name) {
			t.Fatalf("%s has %s, %v", name, d, err)
		}
	}
	// No content is read again.
	for _, name := range files {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for d := range 24 {
		entries, err := layertest.All(tree.ReadDir(fmt.Sprintf("d%02d", d)))
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			if e.Sum.Digest() != digest.FromString(e.Path) || i > 0 && entries[i-1].Path >= e.Path {
				t.Fatalf("%s, behind %d others, has %s", e.Path, i, e.Sum)
			}
		}
	}
	for _, name := range []string{"d00/a", "d00/z", "d00/namf", "d24/x", files[0] + "x", files[0] + "/x"} {
		if _, err := tree.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Several ask for digests at once, in other orders, while names are listed.
func TestManyFilesAtOnce(t *testing.T) {
	dir, files := manyFiles(t)
	tree, _ := openTestTree(t, dir)
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for i := range files {
				name := files[(i*(2*g+1)+g*17)%len(files)]
				if d, err := tree.Digest(context.Background(), name); err != nil || d != digest.FromString(name) {
					t.Errorf("%s has %s, %v", name, d, err)
					return
				}
				if i%97 == 0 {
					if _, err := layertest.All(tree.ReadDir(filepath.Dir(name))); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, name := range files {
		if e, err := tree.Lstat(name); err != nil || e.Sum.Digest() != digest.FromString(name) {
			t.Fatalf("%s has %s, %v", name, e.Sum, err)
		}
	}
}

// A file that changed after it was first seen is refused although what was seen of it lies in a file.
func TestManyFilesChange(t *testing.T) {
	dir, files := manyFiles(t)
	tree, _ := openTestTree(t, dir)
	names(t, tree, ".")
	later := time.Now().Add(time.Hour)
	for i, name := range files {
		if i%50 == 0 {
			if err := os.Chtimes(filepath.Join(dir, name), later, later); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, name := range files {
		f, err := tree.Open(name)
		if changed := i%50 == 0; (err != nil) != changed {
			t.Errorf("%s changed is %t, opened with %v", name, changed, err)
		}
		if err == nil {
			if data, err := io.ReadAll(f); err != nil || string(data) != name {
				t.Errorf("%s holds %q, %v", name, data, err)
			}
			f.Close()
		}
		if _, err := tree.Digest(t.Context(), name); (err != nil) != (i%50 == 0) {
			t.Errorf("the digest of %s: %v", name, err)
		}
	}
}

// What was looked up before its directory was listed is in the list as it was then, with its digest.
func TestSeenBeforeListed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "d/a=1", "d/b=22", "d/gone=3", "d/sub/x=4", "d/l->a")
	tree, _ := openTestTree(t, dir)
	want := map[string]layer.Entry{}
	for _, name := range []string{"d/b", "d/gone", "d/sub", "d/l"} {
		if name == "d/b" {
			if d, err := tree.Digest(t.Context(), name); err != nil || d != digest.FromString("22") {
				t.Fatal(d, err)
			}
		}
		e, err := tree.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		want[name] = e
	}
	if err := os.Remove(filepath.Join(dir, "d/gone")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "d/b=changed meanwhile", "d/c=new")
	entries, err := layertest.All(tree.ReadDir("d"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Path)
		if w, ok := want[e.Path]; ok && !reflect.DeepEqual(e, w) {
			t.Errorf("%s was %+v and is %+v", e.Path, w, e)
		}
	}
	if fmt.Sprint(got) != "[d/a d/b d/c d/l d/sub]" {
		t.Errorf("listed %v", got)
	}
	for name, w := range want {
		if e, err := tree.Lstat(name); err != nil || !reflect.DeepEqual(e, w) {
			t.Errorf("%s was %+v and is %+v, %v", name, w, e, err)
		}
	}
	if f, err := tree.Open("d/b"); err == nil {
		f.Close()
		t.Error("a file that changed before its directory was listed is opened")
	}
	if len(tree.early) != 1 {
		t.Errorf("%d names are kept twice: %v", len(tree.early)-1, tree.early)
	}
}

// Links, devices and capabilities come back as they were put in.
func TestRareNodes(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("../", 700) + "x"
	write(t, dir, "l->"+long, "empty=", "cap=1", "é\n =bytes", "d/y=")
	if err := unix.Mkfifo(filepath.Join(dir, "p"), 0o640); err != nil {
		t.Fatal(err)
	}
	asRoot := os.Getuid() == 0
	value := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	if asRoot {
		if err := unix.Mknod(filepath.Join(dir, "c"), unix.S_IFCHR|0o600, int(unix.Mkdev(300, 70000))); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(filepath.Join(dir, "cap"), capabilityAttr, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	tree, _ := openTestTree(t, dir)
	entries, err := layertest.All(tree.ReadDir("."))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]layer.Entry{}
	for _, e := range entries {
		if l, err := tree.Lstat(e.Path); err != nil || !reflect.DeepEqual(l, e) {
			t.Errorf("%q is %+v in its directory and %+v alone, %v", e.Path, e, l, err)
		}
		seen[e.Path] = e
	}
	if seen["l"].Linkname != long || seen["p"].Type != layer.Fifo || seen["p"].Mode != 0o640 || seen["é\n "].Size != 5 || seen["d"].Type != layer.Dir {
		t.Errorf("%+v", seen)
	}
	if asRoot {
		if c := seen["c"]; c.Type != layer.Char || c.Devmajor != 300 || c.Devminor != 70000 {
			t.Errorf("the device is %+v", c)
		}
		if x := seen["cap"].Xattrs; len(x) != 1 || x[capabilityAttr] != value {
			t.Errorf("the capability is %q", x)
		}
	}
	if seen["empty"].Xattrs != nil {
		t.Errorf("%q has no attributes", seen["empty"].Xattrs)
	}
}

// What cannot be read of the nodes, or is not what was written, is an error and not a file that looks like another.
func TestNodesCutOrDamaged(t *testing.T) {
	dir, files := manyFiles(t)
	for name, damage := range map[string]func(f *os.File) error{
		"cut": func(f *os.File) error { return f.Truncate(1) },
		"zeros": func(f *os.File) error {
			st, err := f.Stat()
			if err == nil {
				_, err = f.WriteAt(make([]byte, st.Size()), 0)
			}
			return err
		},
		"ones": func(f *os.File) error {
			st, err := f.Stat()
			if err == nil {
				_, err = f.WriteAt([]byte(strings.Repeat("\xff", int(st.Size()))), 0)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var file *os.File
			tree, err := newDirTree(dir, func() (f *os.File, err error) {
				file, err = os.CreateTemp(t.TempDir(), "")
				return file, err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			names(t, tree, ".")
			if err := damage(file); err != nil {
				t.Fatal(err)
			}
			// The first directory is no longer among the recent ones.
			if _, err := tree.Lstat(files[0]); err == nil {
				t.Error("Lstat succeeds")
			}
			if _, err := layertest.All(tree.ReadDir("d00")); err == nil {
				t.Error("ReadDir succeeds")
			}
			if _, err := tree.Digest(t.Context(), files[0]); err == nil {
				t.Error("Digest succeeds")
			}
			if _, err := tree.Open(files[0]); err == nil {
				t.Error("Open succeeds")
			}
			if _, err := tree.LinkID(files[0]); err == nil {
				t.Error("LinkID succeeds")
			}
			if _, err := tree.Lstat(files[0]); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the file counts as missing: %v", err)
			}
		})
	}
}

// All that was asked for is handed over in order when the tree is closed, wherever it is kept, and nothing else.
func TestDigestsAreHandedOver(t *testing.T) {
	dir, files := manyFiles(t)
	write(t, dir, "alone/b=1", "alone/a=2", "alone/not=3", "a/listed=4", "a!/listed=5", "a.d/early=6", "a/sub/x=7", "root=8", "gone=9")
	m := &memory{known: map[string]digest.Digest{}}
	tree, spilled := openTestTree(t, dir)
	tree.digests = m
	want := map[string]bool{}
	ask := func(name string) {
		if _, err := tree.Digest(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		want[path.Dir(name)+"\x00"+path.Base(name)] = true
	}
	ask("alone/b")
	ask("alone/a")
	ask("a.d/early")
	for _, d := range []string{".", "a", "a!", "a.d", "a/sub"} {
		if _, err := layertest.All(tree.ReadDir(d)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a/listed", "a!/listed", "a/sub/x", "root"} {
		ask(name)
	}
	for d := range 24 {
		if _, err := layertest.All(tree.ReadDir(fmt.Sprintf("d%02d", d))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range files {
		if name := files[i*101%len(files)]; i%3 > 0 {
			ask(name)
		}
	}
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	if *spilled != 1 {
		t.Errorf("%d files were made for the nodes", *spilled)
	}
	if !slices.IsSorted(m.seen) {
		t.Error("not sorted")
	}
	for _, s := range m.seen {
		if !want[s] {
			t.Errorf("%q was not asked for, or comes twice", s)
		}
		delete(want, s)
	}
	if len(want) > 0 {
		t.Errorf("%d are missing: %v", len(want), want)
	}
	for _, name := range []string{"alone/a", "root", files[101]} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || m.known[key(name, fi)] != digest.FromBytes(data) {
			t.Errorf("%s has %s, %v", name, m.known[key(name, fi)], err)
		}
	}
}
