package layer

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/cairn-build/cairn/pkg/layer/layertest"
)

func TestLess(t *testing.T) {
	sorted := []string{".", "-", "a", "a/b", "a/b/c", "a/bc", "a-b", "a.b", "ab", "b", "very/long/common/prefix/of/names/x", "very/long/common/prefix/of/names/x/y", "very/long/common/prefix/of/names/x-y"}
	shuffled := slices.Clone(sorted)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortFunc(shuffled, compare)
	if !slices.Equal(sorted, shuffled) {
		t.Errorf("%q", shuffled)
	}
	for i, a := range sorted {
		for j, b := range sorted {
			if Less(a, b) != (i < j) {
				t.Errorf("Less(%q, %q) is %v", a, b, Less(a, b))
			}
		}
	}
}

func TestUnmarshalRefusesEveryChange(t *testing.T) {
	data := marshal(write(t, Compression{Type: "uncompressed"}, everything()...).ix)
	for i := range data {
		if _, err := Unmarshal(data[:i]); err == nil {
			t.Fatalf("cut at %d: decoded", i)
		}
		bad := slices.Clone(data)
		bad[i] ^= 1 << (i % 8)
		if _, err := Unmarshal(bad); err == nil {
			t.Fatalf("bit changed at %d: decoded", i)
		}
	}
	if _, err := Unmarshal(append(slices.Clone(data), 0)); err == nil {
		t.Error("decoded with a byte too many")
	}
	if ix, err := Unmarshal(marshal(indexOf())); err != nil || len(entriesOf(ix)) != 0 {
		t.Errorf("the empty index: %v", err)
	}
}

// The checksum is no defence: with it right, nonsense must still be refused or be an index that works.
func FuzzIndex(f *testing.F) {
	f.Add(marshal(write(f, Compression{Type: "uncompressed"}, everything()...).ix))
	f.Add(marshal(indexOf()))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= 4 {
			body := data[:len(data)-4]
			data = binary.LittleEndian.AppendUint32(slices.Clone(body), crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
		}
		ix, err := Unmarshal(data)
		if err != nil {
			return
		}
		again, err := Unmarshal(marshal(ix))
		if err != nil || !reflect.DeepEqual(entriesOf(ix), entriesOf(again)) {
			t.Fatalf("%v\n%v\n%v", err, entriesOf(ix), again)
		}
		s := Stack([]*Index{ix, again}, nil)
		for _, e := range entriesOf(ix) {
			if _, err := s.Lstat(e.Path); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
				return
			}
			_, _ = layertest.All(s.ReadDir(e.Path))
			_, _ = s.LinkID(e.Path)
		}
	})
}

func TestResolve(t *testing.T) {
	_, tree := stackOf(t, []raw{rd("a/b"), rf("a/b/f", ""), rl("abs", "/a"), rl("rel", "abs/b"), rl("up", "../../../a/b"), rl("loop", "loop2"), rl("loop2", "loop"),
		rl("a/back", ".."), rl("dangling", "no/where"), rl("a/b/link", "../../rel/f"), rl("slash", "a/"), rl("root", "/")})
	for name, want := range map[string]string{
		".": ".", "": ".", "/": ".", "a": "a", "/a/b/f": "a/b/f", "abs": "a", "rel": "a/b", "rel/f": "a/b/f", "up/f": "a/b/f", "a/back/a/back": ".",
		"dangling": "no/where", "dangling/x": "no/where/x", "nothing/../a": "a", "../../a": "a", "a/b/link": "a/b/f", "slash/b": "a/b", "root/abs/b": "a/b",
		"rel/..": "a", "a/b/f/": "a/b/f", "x//y": "x/y",
	} {
		if got, err := Resolve(tree, name); err != nil || got != want {
			t.Errorf("Resolve(%q) is %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{"rel": "rel", "abs/b/link": "a/b/link", "rel/": "rel", "..": ".", "a/..": ".", "": ".", "/abs": "abs", "up/new": "a/b/new"} {
		if got, err := ResolveParent(tree, name); err != nil || got != want {
			t.Errorf("ResolveParent(%q) is %q, %v; want %q", name, got, err, want)
		}
	}
	if _, err := Resolve(tree, "loop/x"); err == nil {
		t.Error("a loop has an end")
	}
	if got, err := ResolveParent(tree, "loop"); err != nil || got != "loop" {
		t.Error(got, err)
	}
}

func TestStackContent(t *testing.T) {
	l := write(t, Compression{}, entry("etc", Dir), file("etc/passwd", "root"), file("etc/shadow", "x"), hardlink("etc/shadow-", "etc/shadow"))
	tree := Stack([]*Index{l.ix}, nil)
	if got := files(t, Stack([]*Index{write(t, Compression{}, entry("etc", Dir), file("etc/passwd", "root")).ix}, nil)); got != "etc/passwd=root" {
		t.Error(got)
	}
	if _, err := tree.Open("etc/shadow"); err == nil {
		t.Error("opened without the means to")
	}
	if d, err := tree.Digest(t.Context(), "etc/shadow-"); err != nil || d != entriesOf(l.ix)[2].Sum.Digest() {
		t.Errorf("%v %v", d, err)
	}
	for _, name := range []string{"etc", "etc/passwd/x", "no", "../etc/passwd", "/etc/passwd", "etc/", ""} {
		if _, err := tree.Open(name); err == nil {
			t.Errorf("%q opened", name)
		}
	}
	if _, err := tree.Lstat("etc/passwd/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
