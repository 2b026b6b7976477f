package copy

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/opencontainers/go-digest"
)

// checkTree compares what a result shows as a tree with its items.
func checkTree(t *testing.T, res *Result) {
	t.Helper()
	tr := res.Tree()
	dirs := map[string][]string{".": nil}
	byPath := map[string]layer.Item{}
	for _, it := range itemsOf(t, res) {
		dirs[path.Dir(it.Path)] = append(dirs[path.Dir(it.Path)], it.Path)
		if it.Type == layer.Dir {
			dirs[it.Path] = dirs[it.Path]
		}
		byPath[it.Path] = it
		want := it.Entry
		if it.Type == layer.Hardlink {
			want = byPath[it.Linkname].Entry
			want.Path = it.Path
			a, err := tr.LinkID(it.Path)
			b, err2 := tr.LinkID(it.Linkname)
			if a != b || a == "" || err != nil || err2 != nil {
				t.Errorf("%q and %q are files %q and %q, %v, %v", it.Path, it.Linkname, a, b, err, err2)
			}
		}
		if e, err := tr.Lstat(it.Path); err != nil || !(node{Entry: e}).same(node{Entry: want}) {
			t.Errorf("%q is %+v, %v; want %+v", it.Path, e, err, want)
		}
		if want.Type != layer.File {
			if _, err := tr.Open(it.Path); err == nil {
				t.Errorf("%q, no file, is opened", it.Path)
			}
			continue
		}
		f, err := tr.Open(it.Path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if d, err2 := tr.Digest(t.Context(), it.Path); err != nil || err2 != nil || d != digest.FromBytes(data) || int64(len(data)) != want.Size {
			t.Errorf("%q has %d bytes, %v, and the digest %s, %v", it.Path, len(data), err, d, err2)
		}
	}
	for dir, want := range dirs {
		es, err := layertest.All(tr.ReadDir(dir))
		var got []string
		for _, e := range es {
			if one, err := tr.Lstat(e.Path); err != nil || !(node{Entry: e}).same(node{Entry: one}) {
				t.Errorf("%q is listed as %+v and is %+v, %v", e.Path, e, one, err)
			}
			got = append(got, e.Path)
		}
		slices.Sort(want)
		if !slices.Equal(got, want) || err != nil {
			t.Errorf("in %q is %q, %v; want %q", dir, got, err, want)
		}
	}
	if _, err := tr.Lstat("no/such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestUnpackedTree(t *testing.T) {
	data := archive(t, file("a/b", "1"), file("a.b", "2"), dirHeader("a/c"), hardlink("0", "a/b"), symlink("l", "a"), hardlink("a/z", "0"),
		file("a-/x", ""), tar.Header{Name: "p", Typeflag: tar.TypeFifo})
	res, err := Unpack(t.Context(), bytes.NewReader(data), layer.Limits{Temp: nameless(t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	checkTree(t, res)
	for _, it := range itemsOf(t, res) {
		if it.Type == layer.File && it.Sum == (layer.Sum{}) {
			t.Errorf("%q has no sum", it.Path)
		}
	}
	if id, err := res.Tree().LinkID("a.b"); id != "" || err != nil {
		t.Errorf("a file with one name has the links of %q, %v", id, err)
	}
	if at, err := res.Newest(); err != nil || !at.Equal(epoch) || at.Location() != time.UTC {
		t.Errorf("the newest file is of %s, %v", at, err)
	}
}
