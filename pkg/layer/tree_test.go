package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/cairn-build/cairn/test/attack"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// raw is an entry of an archive that no honest tool writes.
type raw = layertest.Entry

func th(name string, typ byte) raw { return layertest.Of(name, typ) }
func rf(name, content string) raw  { return layertest.File(name, content) }
func rd(name string) raw           { return layertest.Dir(name) }
func rl(name, target string) raw   { return layertest.Symlink(name, target) }
func rh(name, target string) raw   { return layertest.Hardlink(name, target) }

func rawTar(t testing.TB, entries ...raw) []byte {
	t.Helper()
	b, err := layertest.Tar(entries...)
	must(t, err)
	return b
}

func layerOf(blob []byte) Layer { return Layer{DiffID: digest.FromBytes(blob)} }

func unpackTar(t testing.TB, dir string, lower Tree, entries ...raw) (*Index, error) {
	t.Helper()
	blob := rawTar(t, entries...)
	return Unpack(context.Background(), bytes.NewReader(blob), layerOf(blob), dir, lower, Limits{})
}

// newCanary returns a canary tree and an empty directory in the middle of it to unpack in.
func newCanary(t testing.TB) (*attack.Canary, string) {
	t.Helper()
	c := attack.NewCanary(t)
	return c, c.Room
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// show lists a tree with all that matters of it.
func show(t testing.TB, tree Tree, content bool) string {
	t.Helper()
	var b strings.Builder
	links := map[string][]string{}
	var walk func(e Entry)
	walk = func(e Entry) {
		fmt.Fprintf(&b, "%q %c %o %d:%d %d %d %q %d:%d", e.Path, e.Type, e.Mode, e.UID, e.GID, e.Size, e.ModTime.Unix(), e.Linkname, e.Devmajor, e.Devminor)
		var attrs []string
		for k, v := range e.Xattrs {
			attrs = append(attrs, fmt.Sprintf("%s=%q", k, v))
		}
		slices.Sort(attrs)
		fmt.Fprint(&b, attrs)
		id, err := tree.LinkID(e.Path)
		must(t, err)
		if id != "" {
			links[id] = append(links[id], e.Path)
		}
		if e.Type == File && content {
			d, err := tree.Digest(t.Context(), e.Path)
			must(t, err)
			fmt.Fprint(&b, " ", d)
		}
		b.WriteByte('\n')
		if e.Type != Dir {
			return
		}
		entries, err := layertest.All(tree.ReadDir(e.Path))
		must(t, err)
		for _, e := range entries {
			again, err := tree.Lstat(e.Path)
			must(t, err)
			if again.Type != e.Type {
				t.Errorf("%q is %c to ReadDir and %c to Lstat", e.Path, e.Type, again.Type)
			}
			walk(e)
		}
	}
	root, err := tree.Lstat(".")
	must(t, err)
	walk(root)
	// A file whose other names cannot be seen has still a link count of more than one.
	var groups []string
	for _, names := range links {
		if len(names) > 1 {
			groups = append(groups, fmt.Sprintf("links %q\n", names))
		}
	}
	slices.Sort(groups)
	return b.String() + strings.Join(groups, "")
}

// mount mounts unpacked layers, bottom first, as the overlay snapshotter does, and returns where. upper may be "".
func mount(t testing.TB, upper string, layers ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts an overlay and must run as root")
	}
	at := t.TempDir()
	layers = slices.Clone(layers)
	slices.Reverse(layers)
	opts := "userxattr,lowerdir=" + strings.Join(layers, ":")
	if upper != "" {
		opts += ",upperdir=" + upper + ",workdir=" + t.TempDir()
	} else if len(layers) == 1 {
		opts += ":" + t.TempDir()
	}
	must(t, unix.Mount("overlay", at, "overlay", 0, opts))
	t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
	return at
}

func openDir(t testing.TB, dir string) *DirTree {
	t.Helper()
	tree, err := OpenDirTree(dir)
	must(t, err)
	t.Cleanup(func() { tree.Close() })
	return tree
}

// stackOf unpacks layers over each other and returns their directories, and the tree of their indexes.
func stackOf(t testing.TB, layers ...[]raw) ([]string, Tree) {
	t.Helper()
	var ixs []*Index
	var dirs []string
	for _, l := range layers {
		dir := t.TempDir()
		ix, err := unpackTar(t, dir, Stack(ixs, nil), l...)
		must(t, err)
		dirs, ixs = append(dirs, dir), append(ixs, ix)
	}
	return dirs, Stack(ixs, func(n int, name string) (io.ReadCloser, error) { return os.Open(path.Join(dirs[n], name)) })
}

func diff(a, b string) string {
	var out strings.Builder
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range as {
		if !slices.Contains(bs, l) {
			fmt.Fprintln(&out, "-", l)
		}
	}
	for _, l := range bs {
		if !slices.Contains(as, l) {
			fmt.Fprintln(&out, "+", l)
		}
	}
	return out.String()
}
