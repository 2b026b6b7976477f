package copy

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/opencontainers/go-digest"
)

// A COPY of more files than are looked at at once is of all of them.
func TestManyFiles(t *testing.T) {
	const n = 2*batchSize + 10
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("f%05d=%d", i, i)
	}
	src := tree(t, lines...)
	req := Request{Sources: []Source{{Tree: src, Path: "."}}, Dest: "/to/", Time: epoch}
	whole, files, err := Inventory(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	list := map[string][8]byte{}
	all, ok := files(n + 1)
	if _, more := files(n); !ok || more {
		t.Errorf("%d files or fewer are listed: %t, %d or fewer: %t", n+1, ok, n, more)
	}
	for _, f := range all {
		list[f.Name] = f.Sum
	}
	if len(list) != n+1 { // with the directory itself
		t.Errorf("%d files are listed", len(list))
	}
	for _, i := range []int{0, batchSize, n - 1} {
		name := fmt.Sprintf("f%05d", i)
		old := src.data[name]
		src.data[name] = []byte("other")
		d, files, err := Inventory(t.Context(), req)
		if err != nil || d == whole {
			t.Errorf("with another %s the key is %s, %v", name, d, err)
		}
		all, _ := files(n + 1)
		for _, f := range all {
			if (f.Sum != list[f.Name]) != (f.Name == name) {
				t.Errorf("with another %s, %s is listed as changed, or is not", name, f.Name)
			}
		}
		src.data[name] = old
	}
	if d, _, err := Inventory(t.Context(), req); err != nil || d != whole {
		t.Errorf("with all as before the key is %s, %v, not %s", d, err, whole)
	}
	if got := written(t, req); len(got) != n+1 {
		t.Errorf("the layer has %d entries", len(got))
	}
}

// written is the layer that a request makes, by path.
func written(t testing.TB, req Request) map[string]layer.Entry {
	t.Helper()
	res, err := Entries(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	w, err := layer.NewWriter(io.Discard, layer.Compression{Type: "uncompressed"})
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Write(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	_, _, ix, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]layer.Entry{}
	for e := range ix.All() {
		out[e.Path] = *e
	}
	return out
}

// wideTree has n directories of 100 files each, none of which is in memory. A file holds its name.
type wideTree struct{ n int }

func (w wideTree) Lstat(name string) (layer.Entry, error) {
	e := layer.Entry{Path: name, Type: layer.Dir, Mode: 0o755, ModTime: epoch}
	dir, base, isFile := strings.Cut(name, "/")
	if isFile {
		e.Type, e.Mode, e.Size = layer.File, 0o644, int64(len(name))
	}
	i, err := strconv.Atoi(strings.TrimPrefix(dir, "d"))
	if name != "." && (err != nil || i >= w.n || isFile && base != "f00" && strings.TrimLeft(base, "f0123456789") != "") {
		return e, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

func (w wideTree) ReadDir(name string) iter.Seq2[layer.Entry, error] {
	return layertest.Each(w.readDir(name))
}

func (w wideTree) readDir(name string) ([]layer.Entry, error) {
	n, format := 100, name+"/f%02d"
	if name == "." {
		n, format = w.n, "d%05d"
	}
	out := make([]layer.Entry, n)
	for i := range out {
		var err error
		if out[i], err = w.Lstat(fmt.Sprintf(format, i)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (w wideTree) Open(name string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(name)), nil
}

func (w wideTree) Digest(_ context.Context, name string) (digest.Digest, error) {
	return digest.FromString(name), nil
}

func (w wideTree) LinkID(string) (string, error) { return "", nil }

// A pattern may stand for more names than are kept.
func TestManyMatches(t *testing.T) {
	const n = fewMatches/100 + 2
	req := Request{Sources: []Source{{Tree: wideTree{n}, Path: "d*/f*"}}, Dest: "/to/", Time: epoch}
	ms, err := req.matches(&req.Sources[0])
	if err != nil || ms.n != n*100 || ms.few != nil {
		t.Fatalf("%+v, %v", ms, err)
	}
	got := written(t, req)
	for i := range 100 {
		f, name := got[fmt.Sprintf("to/f%02d", i)], fmt.Sprintf("d%05d/f%02d", n-1, i)
		if f.Sum != layer.SumOf(digest.FromString(name)) {
			t.Errorf("%s is not %s", f.Path, name)
		}
	}
	if len(got) != 101 {
		t.Errorf("%d entries", len(got))
	}
	_, files, err := Inventory(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if all, ok := files(n * 100); !ok || len(all) != n*100 || all[0].Name != "d00000/f00" {
		t.Errorf("%d files, %t", len(all), ok)
	}
}

// heap is how much is in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A COPY of very many files keeps few bytes of each in memory.
func TestMemoryOfManyFiles(t *testing.T) {
	src := wideTree{1000}
	req := Request{Sources: []Source{{Tree: src, Path: "."}}, Dest: "/to/", Time: epoch, Limits: layer.Limits{Temp: nameless(t.TempDir())}}
	before := heap()
	res, err := Entries(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	used := heap() - before
	defer res.Close()
	if n := res.nodes.many.Len(); n != 101_001 {
		t.Fatalf("%d entries", n)
	}
	if limit := int64(101_001 * 30); used > limit {
		t.Errorf("%d bytes are in use after 101001 names, more than %d", used, limit)
	}
}

// BenchmarkCopy is a COPY of ten thousand files over a stage that has some of them.
func BenchmarkCopy(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(strconv.Itoa(n*100), func(b *testing.B) {
			req := Request{Sources: []Source{{Tree: wideTree{n}, Path: "."}}, Dest: "/to/", Time: epoch, Stage: tree(b, "to/d00000/f01=x")}
			for b.Loop() {
				res, err := Entries(b.Context(), req)
				if err != nil {
					b.Fatal(err)
				}
				if err := res.nodes.each(func(*node) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Sources in any order, of more files than are in memory at once, give what they give in order.
func TestManySourcesInReverse(t *testing.T) {
	const n = 100
	src := wideTree{n}
	stage := tree(t, "to/d00007/f01=d00007/f01", "to/d00007/f02=other", "to/d00003/f01/")
	delete(stage.entries, "to/d00003/f01")
	req := Request{Sources: []Source{{Tree: src, Path: "."}}, Dest: "/to/", Time: epoch, Stage: stage}
	want := written(t, req)
	if _, ok := want["to/d00007/f01"]; ok || len(want) != n*101 {
		t.Fatalf("%d entries, %t", len(want), ok)
	}
	req.Sources, req.Parents = nil, true
	for i := range n {
		// Each directory comes twice.
		req.Sources = append(req.Sources, Source{Tree: src, Path: fmt.Sprintf("d%05d", (n-i)%n)}, Source{Tree: src, Path: fmt.Sprintf("d%05d", (i+n/2)%n)})
	}
	req.Limits.Temp = nameless(t.TempDir())
	got := written(t, req)
	for p, e := range got {
		if w, ok := want[p]; !ok || !(node{Entry: e}).same(node{Entry: w}) {
			t.Errorf("%q is %+v, want %+v", p, e, w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
}

// hostileArchive has names that come again as something else, in no order, and hard links to all of them.
func hostileArchive(t testing.TB, rnd *rand.Rand) []byte {
	var hs []tar.Header
	for i := range 3000 {
		dir := fmt.Sprintf("d%d", rnd.IntN(20))
		name := fmt.Sprintf("%s/f%d", dir, rnd.IntN(100))
		h := file(name, strconv.Itoa(i))
		switch rnd.IntN(12) {
		case 0:
			h = symlink(name, "x")
		case 1:
			h = dirHeader(name)
		case 2:
			if rnd.IntN(20) == 0 {
				h = file(dir, "now a file")
			}
		case 3, 4, 5:
			h = hardlink(name, fmt.Sprintf("d%d/f%d", rnd.IntN(20), rnd.IntN(100)))
		}
		if h.Name != dir {
			hs = append(hs, dirHeader(dir)) // it may be a file
		}
		h.Uid = rnd.IntN(3)
		hs = append(hs, h)
	}
	return archive(t, hs...)
}

// Wherever what an archive has is kept, it is unpacked to the same.
func TestManyInArchive(t *testing.T) {
	stage := tree(t, "d1/f1/x=1", "d2=1", "d3/f3->y")
	for i := 3; i < 20; i++ {
		stage.add(t, fmt.Sprintf("d%d/f0=1", i))
	}
	for seed := range uint64(5) {
		data := hostileArchive(t, rand.New(rand.NewPCG(seed, 1)))
		unpack := func(most int) string {
			req := addArchive(t, data, "/", stage)
			c := &copier{req: req, up: newUpper(stage, epoch, nameless(t.TempDir())), res: &Result{}}
			c.up.nodes.most, c.up.removed.most, c.up.links.most = most, most, most
			defer c.res.Close()
			x, err := c.extractor(".")
			if err != nil {
				t.Fatal(err)
			}
			tr := tar.NewReader(bytes.NewReader(data))
			refused := 0
			for {
				h, err := tr.Next()
				if err == io.EOF {
					break
				}
				x.files = 1 << 30
				if err = x.entry(h, tr); err != nil {
					refused++
				}
			}
			if err := c.finish(t.Context()); err != nil {
				t.Fatal(err)
			}
			if inFile := c.res.nodes.many != nil; inFile != (most < 1000) {
				t.Errorf("in a list: %t, with %d in memory", inFile, most)
			}
			checkTree(t, c.res)
			return fmt.Sprintf("%s\n%d refused", show(t, itemsOf(t, c.res)), refused)
		}
		want := unpack(1 << 20)
		if strings.Count(want, "=>") < 20 || strings.Count(want, "opaque") == 0 {
			t.Errorf("the archive is too simple:\n%s", want)
		}
		if got := unpack(8); got != want {
			t.Errorf("seed %d: got\n%s\nwant\n%s", seed, got, want)
		}
	}
}
