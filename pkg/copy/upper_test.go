package copy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
)

// plainUpper is what upper must be, with everything in maps.
type plainUpper struct {
	u       *upper // for what does not depend on how names are kept: origins, now
	lower   layer.Tree
	nodes   map[string]node
	removed map[string]bool
}

func (m *plainUpper) hidden(name string) bool {
	for p := name; p != "."; p = path.Dir(p) {
		if n, ok := m.nodes[p]; m.removed[p] || ok && n.Type != layer.Dir {
			return true
		}
	}
	return false
}

func (m *plainUpper) below(name string) (layer.Entry, bool) {
	if m.lower == nil {
		return layer.Entry{}, false
	}
	e, err := m.lower.Lstat(name)
	return e, err == nil
}

func (m *plainUpper) lstat(name string) (layer.Entry, bool) {
	if n, ok := m.nodes[name]; ok {
		return n.Entry, true
	}
	if name == "." {
		return layer.Entry{Path: ".", Type: layer.Dir, Mode: 0o755}, true
	}
	if m.hidden(name) {
		return layer.Entry{}, false
	}
	return m.below(name)
}

func (m *plainUpper) remove(name string) {
	for p := range m.nodes {
		if p == name || strings.HasPrefix(p, name+"/") {
			delete(m.nodes, p)
		}
	}
	m.removed[name] = true
}

// changes is upper.changes.
func (m *plainUpper) changes(t *testing.T) []node {
	keep, touched := map[string]node{}, map[string]bool{}
	for p, n := range m.nodes {
		e, ok := m.below(p)
		if n.Type != layer.Dir || !ok || e.Type != layer.Dir {
			touched[path.Dir(p)] = true
		}
		n.Opaque = m.removed[p] && n.Type == layer.Dir && ok && e.Type == layer.Dir
		same := ok && !m.removed[p] && !m.hidden(path.Dir(p)) && e.Type == n.Type && e.Mode == n.Mode && e.UID == n.UID && e.Size == n.Size && e.Linkname == n.Linkname
		if same && n.Type != layer.Dir {
			same = e.ModTime.Equal(n.ModTime)
		}
		if same && n.Type == layer.File {
			mine, err := m.u.origins.of(&n).digest(t.Context(), &n)
			theirs, err2 := m.lower.Digest(t.Context(), p)
			same = err == nil && err2 == nil && mine == theirs
		}
		if !same {
			keep[p] = n
		}
	}
	for p := range keep {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if _, ok := keep[d]; ok {
				continue
			}
			n, ok := m.nodes[d]
			if !ok {
				n.Entry, _ = m.lstat(d)
				if touched[d] {
					n.ModTime = m.u.now
				}
			}
			keep[d] = n
		}
	}
	var out []node
	for _, n := range keep {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b node) int {
		if layer.Less(a.Path, b.Path) {
			return -1
		}
		return 1
	})
	first := map[string]string{}
	for i := range out {
		n := &out[i]
		if n.link == "" || n.Type != layer.File {
			continue
		}
		if to, ok := first[n.link]; ok {
			n.Type, n.Linkname, n.Size, n.Sum = layer.Hardlink, to, 0, layer.Sum{}
		} else {
			first[n.link] = n.Path
		}
	}
	return out
}

// randomNode is one that may take the place of what is at name, with the content of a file of src.
func randomNode(rnd *rand.Rand, name string, src *memTree) node {
	n := node{Entry: layer.Entry{Path: name, Mode: 0o600 + int64(rnd.IntN(2)), UID: rnd.IntN(2), ModTime: epoch.Add(time.Duration(rnd.IntN(2)) * time.Second)}}
	switch rnd.IntN(5) {
	case 0, 1:
		n.Type = layer.Dir
	case 2:
		n.Type, n.Linkname = layer.Symlink, fmt.Sprint("to", rnd.IntN(2))
	default:
		n.Type = layer.File
		n.content = content{origin: 1, name: fmt.Sprintf("s/%d", rnd.IntN(2)), at: int64(rnd.IntN(2))}
		if full := "s/" + name; src.entries[full].Type == layer.File {
			n.content.name = full
		}
		n.Size = src.entries[n.content.name].Size
		if rnd.IntN(3) == 0 {
			n.link = fmt.Sprint("group", rnd.IntN(3))
		}
	}
	return n
}

// same compares all that a layer is made of.
func (n node) same(o node) bool {
	if n.Type == layer.Hardlink && o.Type == layer.Hardlink {
		return n.Path == o.Path && n.Linkname == o.Linkname
	}
	if !n.ModTime.Equal(o.ModTime) {
		return false
	}
	n.ModTime, n.Xattrs = o.ModTime, o.Xattrs
	return reflect.DeepEqual(n, o)
}

// TestUpper: whatever is put and taken away, and wherever it is kept, it is seen as if all were in one map.
func TestUpper(t *testing.T) {
	src := tree(t, "s/0=a", "s/1=b", "s/a/b=same", "s/a.b=same", "s/c/a/b=other")
	lowers := []layer.Tree{nil, tree(t, "a/b=same 0600", "a.b=same 0600", "c/a/b=b 0600 1:0", "c/c/c/ 0600", "b->to1", "a/c/ 0600")}
	inFiles := 0
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 6))
		lower := lowers[rnd.IntN(2)]
		u := newUpper(lower, epoch.Add(time.Hour), nameless(t.TempDir()))
		u.nodes.most, u.removed.most, u.links.most = 1+rnd.IntN(4), 1+rnd.IntN(3), 1
		u.from(treeOrigin{src})
		m := &plainUpper{u: u, lower: lower, nodes: map[string]node{}, removed: map[string]bool{}}
		for range rnd.IntN(400) {
			name := []string{"a", "b", "a.b", "c", "d"}[rnd.IntN(5)]
			for rnd.IntN(2) == 0 && strings.Count(name, "/") < 3 {
				name = path.Join(name, []string{"a", "b", "a.b", "c"}[rnd.IntN(4)])
			}
			compareAt(t, u, m, name)
			if parent, ok := m.lstat(path.Dir(name)); !ok || parent.Type != layer.Dir {
				continue
			}
			n := randomNode(rnd, name, src)
			at, exists := m.lstat(name)
			if exists && (at.Type == layer.Dir) != (n.Type == layer.Dir) || rnd.IntN(2+int(seed%8)) == 0 {
				m.remove(name)
				if err := u.remove(name); err != nil {
					t.Fatal(err)
				}
				compareAt(t, u, m, name)
				if rnd.IntN(2) == 0 {
					continue
				}
			}
			m.nodes[name] = n
			if err := u.put(&n); err != nil {
				t.Fatal(err)
			}
			compareAt(t, u, m, name)
		}
		if len(u.nodes.recent) > u.nodes.most {
			t.Fatalf("%d names are in memory", len(u.nodes.recent))
		}
		inFiles += len(u.nodes.runs)
		want := m.changes(t)
		got, err := u.changes(context.Background())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		i := 0
		err = got.each(func(n *node) error {
			if i >= len(want) || !n.same(want[i]) {
				return fmt.Errorf("%d: %+v, want %+v", i, n, want[min(i, len(want)-1)])
			}
			i++
			return nil
		})
		if err != nil || i != len(want) {
			t.Fatalf("seed %d: %v; %d of %d", seed, err, i, len(want))
		}
	}
	if inFiles < 500 {
		t.Errorf("all %d tests together made only %d runs", 300, inFiles)
	}
}

func compareAt(t *testing.T, u *upper, m *plainUpper, name string) {
	t.Helper()
	for ; name != "."; name = path.Dir(name) {
		want, wantOK := m.lstat(name)
		got, ok, err := u.lstat(name)
		if err != nil || ok != wantOK || !(node{Entry: got}).same(node{Entry: want}) {
			t.Fatalf("%q is %+v, %t, %v; want %+v, %t", name, got, ok, err, want, wantOK)
		}
	}
}

// TestTableStaysShallow: the more names come out of order, the fewer runs have to be asked for each of them.
func TestTableStaysShallow(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	tb := table{most: 4}
	want := map[string]int64{}
	for i := range 4000 {
		name := fmt.Sprintf("d%d/f%d", rnd.IntN(10), rnd.IntN(500))
		want[name] = int64(i)
		if err := tb.put(&node{Entry: layer.Entry{Path: name, Type: layer.File, Size: int64(i)}}); err != nil {
			t.Fatal(err)
		}
		if n := len(tb.runs); n > 24 {
			t.Fatalf("%d runs of %d names", n, i+1)
		}
	}
	last := "."
	for n, err := range tb.all() {
		if err != nil || !layer.Less(last, n.Path) || n.Size != want[n.Path] {
			t.Fatalf("%q after %q has size %d, want %d, %v", n.Path, last, n.Size, want[n.Path], err)
		}
		delete(want, n.Path)
		last = n.Path
	}
	if len(want) > 0 {
		t.Errorf("%d names are missing", len(want))
	}
}

// TestTableForgets: what was taken away is not met for ever.
func TestTableForgets(t *testing.T) {
	tb := table{most: 4}
	put := func(name string) {
		if err := tb.put(&node{Entry: layer.Entry{Path: name, Type: layer.Dir}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 {
		put(fmt.Sprintf("d/f%d", i))
		put(fmt.Sprintf("e/f%d", i%10))
	}
	for range 10 {
		if err := tb.remove("d", true); err != nil {
			t.Fatal(err)
		}
		put("d")
	}
	if n := tb.len(); n > 50 {
		t.Errorf("%d names are kept of 11", n)
	}
	var names []string
	for n, err := range tb.all() {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, n.Path)
	}
	if len(names) != 11 || names[0] != "d" || names[10] != "e/f9" {
		t.Errorf("%q", names)
	}
}

// TestTableForgetsItsEnd: what is put after the last names were forgotten replaces what was put before.
func TestTableForgetsItsEnd(t *testing.T) {
	tb := table{most: 4}
	put := func(name string, size int64) {
		if err := tb.put(&node{Entry: layer.Entry{Path: name, Type: layer.Dir, Size: size}}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func() {
		if err := tb.remove("z", true); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "z", "z/1", "z/2", "z/3"} {
		put(name, 0)
	}
	remove()
	put("m", 0)
	put("y", 1)
	remove()
	remove()
	if n := tb.len(); n > 3 {
		t.Fatalf("%d names are kept of 3", n)
	}
	put("y", 2)
	if n, err := tb.get("y"); err != nil || n == nil || n.Size != 2 {
		t.Errorf("%+v, %v", n, err)
	}
}
