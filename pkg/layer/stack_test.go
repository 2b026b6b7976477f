package layer

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/cairn-build/cairn/test/torture"
	"golang.org/x/sys/unix"
)

// Stack must show exactly what the kernel shows of the unpacked layers.
func TestStackIsWhatOverlayShows(t *testing.T) {
	wh := func(name string) raw { return rf(name, "") }
	for name, layers := range map[string][][]raw{
		"merge":                    {{rd("a"), rf("a/1", "1"), rf("b", "b")}, {rd("a"), rf("a/2", "2")}},
		"implicit parent":          {{rf("a/b/c", "c")}, {rf("a/b/d", "d")}},
		"implicit keeps below":     {{{Header: tar.Header{Name: "a", Typeflag: tar.TypeDir, Mode: 0o2700, Uid: 3, Gid: 4, ModTime: epoch(9)}}, rf("a/1", "")}, {rf("a/2", "2")}},
		"whiteout":                 {{rd("a"), rf("a/1", "1"), rf("a/2", "2"), rf("b", "b")}, {rd("a"), wh("a/.wh.1"), wh(".wh.b")}},
		"whiteout dir":             {{rd("a"), rf("a/1", "1")}, {wh(".wh.a")}},
		"whiteout of nothing":      {{rf("a", "")}, {wh(".wh.b"), wh("c/d/.wh.e")}, {rd("c")}},
		"whiteout then new":        {{rd("a"), rf("a/1", "1")}, {wh(".wh.a"), rd("a"), rf("a/2", "2")}},
		"new then whiteout":        {{rd("a"), rf("a/1", "1")}, {rd("a"), rf("a/2", "2"), wh(".wh.a")}},
		"whiteout then implicit":   {{{Header: tar.Header{Name: "a", Typeflag: tar.TypeDir, Mode: 0o700, ModTime: epoch(9)}}, rf("a/1", "1")}, {wh(".wh.a"), rf("a/2", "2")}},
		"opaque":                   {{rd("a"), rf("a/1", "1"), rd("a/d"), rf("a/d/x", "")}, {rd("a"), wh("a/.wh..wh..opq"), rf("a/2", "2"), rf("a/d/y", "")}},
		"opaque last":              {{rd("a"), rf("a/1", "1")}, {rd("a"), rf("a/2", "2"), wh("a/.wh..wh..opq")}},
		"opaque without entry":     {{{Header: tar.Header{Name: "a", Typeflag: tar.TypeDir, Mode: 0o700, ModTime: epoch(9)}}, rf("a/1", "1")}, {wh("a/.wh..wh..opq")}, {rf("a/3", "3")}},
		"opaque root":              {{rd("a"), rf("a/1", "1"), rf("b", "b"), rd("c"), rf("c/1", "")}, {wh(".wh..wh..opq"), rf("a/2", "2"), rd("c")}},
		"file over dir":            {{rd("a"), rf("a/1", "1")}, {rf("a", "file")}, {rd("a"), rf("a/2", "2")}},
		"dir over file":            {{rf("a", "file")}, {rd("a"), rf("a/2", "2")}},
		"dir over link":            {{rd("b"), rf("b/1", ""), rl("a", "b")}, {rd("a"), rf("a/2", "2")}},
		"hard links":               {{rf("a", "a"), rh("b", "a"), rh("d/c", "b")}, {wh(".wh.a")}, {rf("b", "new")}},
		"hard link replaced":       {{rf("a", "a"), rh("b", "a"), rf("a", "other"), rh("c", "b")}},
		"hard link to link":        {{rl("a", "nowhere"), rh("b", "a"), th("p", tar.TypeFifo), rh("q", "p")}},
		"usr merge":                {{rd("usr/bin"), rf("usr/bin/sh", "sh"), rl("bin", "usr/bin")}, {rf("bin/ls", "ls"), rh("bin/dir", "bin/ls")}, {wh("bin/.wh.sh"), rf("bin/sub/x", "")}},
		"link chain below":         {{rd("z/y"), rl("a", "/b"), rl("b", "c/../d"), rl("d", "z"), rd("c")}, {rf("a/y/f", "f"), rf("a/n/f", "f")}},
		"dangling parent":          {{rl("a", "/no/where")}, {rf("a/f", "f")}},
		"link in layer":            {{rd("b"), rl("a", "b"), rf("a/f", "f"), rh("a/g", "a/f"), rh("h", "a/f")}},
		"link in layer and below":  {{rd("t"), rl("b", "t")}, {rl("a", "b"), rf("a/f", "f")}},
		"usr merge own wins":       {{rd("usr/bin"), rl("bin", "usr/bin")}, {rf("bin/f", "moved"), rf("usr/bin/f", "own")}},
		"usr merge own first":      {{rd("usr/bin"), rl("bin", "usr/bin")}, {rf("usr/bin/f", "own"), rf("bin/f", "moved")}},
		"opaque through link":      {{rd("usr/bin"), rf("usr/bin/f", ""), rl("bin", "usr/bin")}, {wh("bin/.wh..wh..opq"), rf("bin/g", "")}},
		"opaque root through link": {{rf("a/1", ""), rl("a/b", "/c"), rl("c", ".."), rd("d")}, {rf("a/b/e", ""), wh("c/.wh..wh..opq"), rd("d/f")}},
		"whiteout of own":          {{rd("etc"), rf("etc/b/x", ""), rl("c", "etc"), rl("d", "etc")}, {rd("c/b"), rf("d/.wh.b", "")}},
		"whited out link":          {{rd("b"), rf("b/x", ""), rl("a", "b")}, {wh(".wh.a"), rf("a/f", "f")}},
		"root mode":                {{{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 7, ModTime: epoch(8)}}}, {rf("a", "")}},
		"swap in layer":            {{rd("foo"), rd("foo/tmp"), rf("foo/tmp/f", "1"), rl("foo", "/"), rf("foo/tmp/f", "2"), rd("foo"), rd("foo/tmp"), rf("foo/tmp/f", "3")}},
		"unordered":                {{rf("a/b/c", "c"), {Header: tar.Header{Name: "a/b", Typeflag: tar.TypeDir, Mode: 0o500, ModTime: epoch(4)}}, rd("a"), rf("a/0", "")}},
		"names":                    {{rf("a.b", ""), rd("a"), rf("a/x", ""), rf("a-b", ""), rf("./b//c", ""), rf("-", ""), rf("\xff", "")}},
		"whiteout in hidden":       {{rd("a"), rd("a/b"), rf("a/b/c", "")}, {rd("a"), wh("a/.wh..wh..opq"), rd("a/b"), wh("a/b/.wh.c")}},
		"aufs notes":               {{rf(".wh..wh.aufs", ""), rd(".wh..wh.plnk"), rf(".wh..wh.plnk/1", "x"), rf("f", "")}},
		"dir named like whiteout":  {{rf("a", "")}, {rf(".wh.etc/f", "x")}},
		"removed and back":         {{rd("a"), rf("a/1", "")}, {wh(".wh.a")}, {rf("a/2", "")}, {rd("a"), rf("a/3", "")}},
		"empty":                    {{}, {}},
		"whiteout through nothing": {{rl("l", "/dne")}, {wh("l/.wh.etc")}},
	} {
		t.Run(name, func(t *testing.T) {
			dirs, tree := stackOf(t, layers...)
			want := show(t, openDir(t, mount(t, "", dirs...)), true)
			if got := show(t, tree, true); got != want {
				t.Errorf("stack (-) and overlay (+):\n%s", diff(got, want))
			}
		})
	}
}

var generated = flag.Int("generated", 300, "how many generated stacks of layers are tried")

// grammar makes layers out of few names, so that they collide in every way.
func grammar(rnd *rand.Rand) []raw {
	names := []string{"a", "b", "c", "d", "a/b", "a/c", "b/a", "b/c/d", "a/b/c", "c/a", "../a", "/d/b", "d/../c/b", "./b/b"}
	targets := []string{"a", "b", "/c", "../d", "a/b", "/", "..", "b/../c", "nowhere", "../../../etc"}
	var out []raw
	for range 2 + rnd.IntN(11) {
		name := names[rnd.IntN(len(names))]
		switch rnd.IntN(13) {
		case 0, 1, 2:
			out = append(out, noted(rnd, rf(name, strings.Repeat("x", rnd.IntN(9)))))
		case 3, 4, 5:
			d := rd(name)
			d.Mode = []int64{0o755, 0o700, 0o1777, 0o500}[rnd.IntN(4)]
			out = append(out, noted(rnd, d))
		case 6, 7:
			out = append(out, rl(name, targets[rnd.IntN(len(targets))]))
		case 8:
			out = append(out, rh(name, names[rnd.IntN(len(names))]))
		case 9, 10:
			i := strings.LastIndexByte(name, '/') + 1
			out = append(out, rf(name[:i]+".wh."+name[i:], ""))
		case 11:
			out = append(out, rf(name+"/.wh..wh..opq", ""))
		case 12:
			n := th(name, []byte{tar.TypeFifo, tar.TypeChar, tar.TypeBlock}[rnd.IntN(3)])
			if n.Typeflag != tar.TypeFifo {
				n.Devmajor, n.Devminor = 1, 1+rnd.Int64N(2)
			}
			out = append(out, n)
		}
	}
	return out
}

// noted gives one in four an attribute: the file's own, what overlayfs and its like take for their notes, or what no layer can have.
func noted(rnd *rand.Rand, e raw) raw {
	const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw+ep
	attrs := [][2]string{
		{"user.own", "1"}, {"security.capability", capability}, {"user.overlay.opaque", "y"}, {"user.overlay.whiteout", ""}, {"user.overlay.redirect", "/etc"},
		{"user.overlay.overlay.opaque", "y"}, {"trusted.overlay.opaque", "y"}, {"trusted.overlay.metacopy", ""}, {"user.fuseoverlayfs.opaque", "y"},
	}
	if a := attrs[rnd.IntN(len(attrs))]; rnd.IntN(4) == 0 && (a[0] != "security.capability" || e.Typeflag == tar.TypeReg) {
		e.PAXRecords = map[string]string{"SCHILY.xattr." + a[0]: a[1]}
	}
	return e
}

// Layers that refuse to unpack are fine; those that unpack must look the same to the kernel and to Stack, and touch nothing else.
func TestStackAgainstOverlayGenerated(t *testing.T) {
	rounds := torture.Times(*generated, 20000)
	inMemory(t)
	unpacked := 0
	for seed := range rounds {
		if besideOverlay(t, uint64(seed)) {
			unpacked++
		}
		if t.Failed() {
			return
		}
	}
	if unpacked < rounds/2 {
		t.Errorf("only %d of %d stacks unpacked", unpacked, rounds)
	}
	torture.Figure(t, "T2", "%d stacks of generated layers beside the kernel's overlay: nothing outside changed, and the %d that were taken look the same to both", rounds, unpacked)
}

// besideOverlay compares one stack and reports whether anything of it was taken.
func besideOverlay(whole *testing.T, seed uint64) bool {
	t := &round{TB: whole}
	defer t.end()
	rnd := rand.New(rand.NewPCG(seed, 0))
	var ixs []*Index
	var dirs []string
	var layers strings.Builder
	for n := range 1 + rnd.IntN(4) {
		c, dir := newCanary(t)
		entries := grammar(rnd)
		var lower Tree
		if n > 0 {
			lower = Stack(ixs, nil)
		}
		ix, err := unpackTar(t, dir, lower, entries...)
		c.Check(t)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
				t.Errorf("seed %d: %v\n%s", seed, err, describe(entries))
			}
			continue
		}
		ixs, dirs = append(ixs, ix), append(dirs, dir)
		layers.WriteString(describe(entries) + "--\n")
	}
	if len(ixs) == 0 {
		return false
	}
	tree := openDir(t, mount(t, "", dirs...))
	want := sansNotes(show(t, tree, false))
	if got := sansNotes(show(t, Stack(ixs, nil), false)); got != want {
		t.Errorf("seed %d, stack (-) and overlay (+):\n%s%s", seed, diff(got, want), &layers)
	}
	return true
}

// round is one of very many in a test: what it made and mounted goes when it ends, not when the test does.
type round struct {
	testing.TB
	ends []func()
}

func (r *round) Cleanup(f func()) { r.ends = append(r.ends, f) }

func (r *round) TempDir() string {
	dir, err := os.MkdirTemp("", "round-")
	must(r.TB, err)
	r.Cleanup(func() { must(r.TB, os.RemoveAll(dir)) })
	return dir
}

func (r *round) end() {
	for _, f := range slices.Backward(r.ends) {
		f()
	}
}

// inMemory has the temporary directories of a test in memory, where making and removing very many small trees costs little, if files there can have
// the attributes of users (Linux 6.6).
func inMemory(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "cairn-layers-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	if unix.Setxattr(dir, "user.own", nil, 0) == nil {
		t.Setenv("TMPDIR", dir)
	}
}

// sansNotes leaves out what a directory that was mounted or unpacked by others shows as its own notes and not as an image's attribute.
func sansNotes(s string) string { return overlayNote.ReplaceAllString(s, "") }

var overlayNote = regexp.MustCompile(`user\.overlay\.[a-z.]+="[^"]*"`)

func describe(entries []raw) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%c %s %s %v\n", e.Typeflag, e.Name, e.Linkname, e.PAXRecords)
	}
	return b.String()
}

// TestStackOfImplicitDirectories stacks layers that have files without their directories, as some tools write them. What is below is looked at once for
// each, not once for each and all below it: with fifty layers that would not end.
func TestStackOfImplicitDirectories(t *testing.T) {
	var ixs []*Index
	for i := range 50 {
		ixs = append(ixs, indexOf(Entry{Path: "usr/lib/f" + strconv.Itoa(i), Type: File}))
	}
	got, err := layertest.All(Stack(ixs, nil).ReadDir("usr/lib"))
	if err != nil || len(got) != 50 {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

// TestStackOfAFileThatIsADirectory: a layer that names one path in two ways, through links of the layer below, has a file there and something in it. The
// directory wins, on disk and in the stack.
func TestStackOfAFileThatIsADirectory(t *testing.T) {
	lowerDir, upperDir := t.TempDir(), t.TempDir()
	lower, err := unpackTar(t, lowerDir, nil, rd("a"), rl("a/b", "../etc"), rl("b", "etc"))
	must(t, err)
	upper, err := unpackTar(t, upperDir, Stack([]*Index{lower}, nil), th("b/c/d/.wh..wh..opq", tar.TypeReg), rf("a/b/c", "file"), rl("b/c/d", "b"))
	must(t, err)
	fi, err := os.Lstat(filepath.Join(upperDir, "etc/c"))
	must(t, err)
	e, err := Stack([]*Index{lower, upper}, nil).Lstat("etc/c")
	if err != nil || !fi.IsDir() || e.Type != Dir {
		t.Errorf("a %v on disk, a %v in the stack, %v", fi.Mode(), e.Type, err)
	}
}
