package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer/layertest"
)

// manyEntries are n entries in order, of paths that share much and little.
func manyEntries(rnd *rand.Rand, n int) []Entry {
	names := map[string]bool{}
	for len(names) < n {
		p := fmt.Sprintf("d%d", rnd.IntN(30))
		for range rnd.IntN(3) {
			p += fmt.Sprintf("/sub-%d", rnd.IntN(8))
		}
		names[p+fmt.Sprintf("/a-file-with-a-name-%d.txt", rnd.IntN(20*n))] = true
	}
	var entries []Entry
	for p := range names {
		e := Entry{Path: p, Type: File, Mode: 0o644, UID: rnd.IntN(3), Size: rnd.Int64N(1e6), ModTime: time.Unix(rnd.Int64N(2e9), 0).UTC()}
		e.Sum[rnd.IntN(32)] = byte(rnd.Uint32()) | 1
		switch rnd.IntN(20) {
		case 0:
			e.Type, e.Linkname, e.Size, e.Sum = Symlink, "../target", 0, Sum{}
		case 1:
			e.Xattrs = map[string]string{"user.a": "b", "security.capability": "\x00\x01"}
		case 2:
			e = Entry{Path: p, Type: Whiteout}
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, byPath)
	return entries
}

func TestList(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 15, 16, 17, 300, 8000} {
		entries := manyEntries(rnd, n)
		var file *os.File
		l := NewList(func() (f *os.File, err error) {
			file, err = os.CreateTemp(t.TempDir(), "")
			return file, err
		})
		note := func(i int) []byte { return []byte(fmt.Sprint(i, "note")[:1+i%5]) }
		for i := range entries {
			if err := l.Add(&entries[i], note(i)); err != nil {
				t.Fatal(err)
			}
			if j := rnd.IntN(i + 1); i%50 == 0 && !same(l.at(j), &entries[j]) {
				t.Fatalf("%d of %d that grow: %+v, want %+v", j, i, l.at(j), entries[j])
			}
		}
		if inFile := file != nil; inFile != (n == 8000) {
			t.Errorf("%d entries in a file: %t", n, inFile)
		}
		i := 0
		for e, got := range l.All() {
			if !same(e, &entries[i]) || !bytes.Equal(got, note(i)) {
				t.Fatalf("%+v %q, want %+v %q", e, got, entries[i], note(i))
			}
			i++
		}
		if i != n || l.Len() != n || l.Err() != nil {
			t.Errorf("%d of %d entries, %v", i, n, l.Err())
		}
		for range 2000 {
			checkSpan(t, l, entries, rnd)
		}
		if n > 0 && l.Add(&entries[n-1], nil) == nil {
			t.Error("the last entry was added twice")
		}
	}
}

func same(a, b *Entry) bool { return fmt.Sprint(*a) == fmt.Sprint(*b) }

// checkSpan compares what a span says of a name with what a search of all entries does.
func checkSpan(t *testing.T, l *List, entries []Entry, rnd *rand.Rand) {
	t.Helper()
	lo := rnd.IntN(len(entries) + 1)
	hi := lo + rnd.IntN(len(entries)-lo+1)
	s, part := span{l, lo, hi}, entries[lo:hi]
	name := fmt.Sprintf("d%d/sub-%d", rnd.IntN(31), rnd.IntN(9))
	switch {
	case len(entries) > 0 && rnd.IntN(2) == 0:
		name = entries[rnd.IntN(len(entries))].Path
	case rnd.IntN(3) == 0:
		name = parentOf(name)
	}
	want := sort.Search(len(part), func(i int) bool { return compare(part[i].Path, name) >= 0 })
	there := want < len(part) && part[want].Path == name
	if i, ok := s.find(name); i != want || ok != there {
		t.Fatalf("%q in %d to %d of %d: %d %t, want %d %t", name, lo, hi, len(entries), i, ok, want, there)
	}
	var wantBelow []string
	for i := range part {
		if below(name, part[i].Path) {
			wantBelow = append(wantBelow, part[i].Path)
		}
	}
	var gotBelow []string
	under := s.under(name)
	for i := range under.len() {
		gotBelow = append(gotBelow, under.at(i).Path)
	}
	if !slices.Equal(wantBelow, gotBelow) {
		t.Fatalf("below %q in %d to %d of %d: %q, want %q", name, lo, hi, len(entries), gotBelow, wantBelow)
	}
}

// What cannot be read again is an error of who asks, and no layer without files.
func TestListThatIsLost(t *testing.T) {
	var file *os.File
	b := newIndexBuilder(func() (f *os.File, err error) {
		file, err = os.CreateTemp(t.TempDir(), "")
		return file, err
	})
	entries := manyEntries(rand.New(rand.NewPCG(3, 4)), 8000)
	for i := range entries {
		if err := b.add(&entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	fileFrom := func(from int) string {
		return entries[from+slices.IndexFunc(entries[from:], func(e Entry) bool { return e.Type == File })].Path
	}
	tree := Stack([]*Index{b.ix}, nil)
	if _, err := tree.Lstat(fileFrom(0)); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(100); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Lstat(fileFrom(3000)); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file whose entry is lost: %v", err)
	}
	if b.ix.Err() == nil {
		t.Error("the index does not say so")
	}
	if _, err := layertest.All(tree.ReadDir(".")); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("listing it: %v", err)
	}
	if _, err := b.ix.Marshal(); err == nil {
		t.Error("it was encoded")
	}
}

// What is packed is as good as a node of its own: an archive that begins with the last of all names, after which nothing is packed, gives the same.
func TestPackedLayer(t *testing.T) {
	read := func(entries ...raw) ([]Entry, int, error) {
		rd := newReader(Limits{}.withDefaults())
		blob := rawTar(t, entries...)
		err := readLayer(t.Context(), bytes.NewReader(blob), layerOf(blob), rd, func(*tar.Header, *node, io.Reader) error { return nil })
		if err != nil {
			return nil, 0, err
		}
		ix, err := rd.index()
		must(t, err)
		return entriesOf(ix), rd.packed.list.Len() - len(rd.packed.gone), nil
	}
	packed, whole := 0, 0
	for seed := range uint64(4000) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		entries := grammar(rnd)
		if rnd.IntN(2) == 0 {
			slices.SortStableFunc(entries[:rnd.IntN(len(entries)+1)], func(a, b raw) int { return compare(cleanName(a.Name), cleanName(b.Name)) })
		}
		want, none, wantErr := read(append([]raw{rf("~~~", "")}, entries...)...)
		got, n, err := read(entries...)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Fatalf("seed %d: %v, want %v", seed, err, wantErr)
		}
		if err != nil {
			continue
		}
		whole++
		if none > 1 {
			t.Fatalf("seed %d: %d were packed after the last name", seed, none)
		}
		packed += n
		want = slices.DeleteFunc(want, func(e Entry) bool { return e.Path == "~~~" })
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("seed %d: %s\n%v\nwant\n%v", seed, describe(entries), got, want)
		}
	}
	if packed < 1000 || whole < 1000 {
		t.Errorf("%d layers could be read, with %d packed entries: the archives are too odd", whole, packed)
	}
}
