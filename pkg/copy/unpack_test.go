package copy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/test/attack"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// archive makes a tar file. Headers without a mode get 0644, directories 0755.
func archive(t testing.TB, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		data := ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			data = h.Linkname
			h.Linkname, h.Size = "", int64(len(data))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		h.ModTime, h.Format = epoch, tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, data string) tar.Header { return tar.Header{Name: name, Linkname: data} }
func dirHeader(name string) tar.Header  { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
func symlink(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}
func hardlink(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}
}

func addArchive(t testing.TB, data []byte, dest string, stage layer.Tree) Request {
	t.Helper()
	src := tree(t, "a.tar=")
	e := src.entries["a.tar"]
	e.Size = int64(len(data))
	src.entries["a.tar"], src.data["a.tar"] = e, data
	return Request{Dest: dest, Stage: stage, Time: epoch, Sources: []Source{{Tree: src, Path: "a.tar", Unpack: true}}}
}

func TestUnpack(t *testing.T) {
	for _, c := range []struct {
		name          string
		headers       []tar.Header
		stage         []string
		dest          string
		set           func(*Request)
		want, wantErr string
	}{
		{name: "files", headers: []tar.Header{dirHeader("d"), file("d/f", "1"), file("./g", "2")}, dest: "/x", want: "x/\nx/d/\nx/d/f=1\nx/g=2"},
		{name: "owners of the archive", headers: []tar.Header{{Name: "f", Uid: 5, Gid: 6, Linkname: "1"}}, dest: "/x", want: "x/\nx/f=1 5:6"},
		{name: "chown", headers: []tar.Header{{Name: "n/f", Uid: 5, Gid: 6, Linkname: "1"}}, dest: "/x", set: chown("7:8"),
			want: "x/ 7:8\nx/n/\nx/n/f=1 7:8"},
		{name: "chmod does not apply", headers: []tar.Header{{Name: "f", Mode: 0o4711, Linkname: "1"}}, dest: "/x", set: withChmod("600"),
			want: "x/\nx/f=1 4711"},
		{name: "existing directory takes the archive's metadata", headers: []tar.Header{{Name: "d", Typeflag: tar.TypeDir, Mode: 0o700}},
			stage: []string{"x/ 0711", "x/d/ 0755 1:1"}, dest: "/x", want: "x/ 0711\nx/d/ 0700"},
		{name: "the destination keeps its own", headers: []tar.Header{{Name: ".", Typeflag: tar.TypeDir, Mode: 0o700}, file("f", "1")},
			stage: []string{"x/ 0711"}, dest: "/x", want: "x/ 0711\nx/f=1"},
		{name: "through a symlink of the stage", headers: []tar.Header{file("var/run/act/f", "1")},
			stage: []string{"var/run->/run", "run/"}, dest: "/", want: "run/\nrun/act/\nrun/act/f=1"},
		{name: "through a symlink of the archive", headers: []tar.Header{dirHeader("r"), symlink("l", "r"), file("l/f", "1")}, dest: "/x",
			want: "x/\nx/l->r\nx/r/\nx/r/f=1"},
		{name: "absolute symlink counts from the destination", headers: []tar.Header{symlink("l", "/y"), dirHeader("y"), file("l/f", "1")},
			stage: []string{"y/"}, dest: "/x", want: "x/\nx/l->/y\nx/y/\nx/y/f=1"},
		{name: "absolute symlink of the stage", headers: []tar.Header{file("l/f", "1")}, stage: []string{"x/l->/y", "y/", "x/y/"}, dest: "/x",
			want: "x/\nx/y/\nx/y/f=1"},
		{name: "symlink to nothing", headers: []tar.Header{symlink("l", "/y"), file("l/f", "1")}, stage: []string{"y/"}, dest: "/x",
			wantErr: `"l" is a symlink to nothing in "/x"`},
		{name: "symlink to nothing further up", headers: []tar.Header{symlink("l", "y"), file("l/a/f", "1")}, dest: "/x",
			wantErr: `"l" is a symlink to nothing in "/x"`},
		{name: "symlinks that are a circle", headers: []tar.Header{symlink("a", "b"), symlink("b", "a"), file("a/f", "1")}, dest: "/x",
			wantErr: "too many levels"},
		{name: "hard link", headers: []tar.Header{file("b", "1"), hardlink("a", "b"), hardlink("c", "/b")}, dest: "/x",
			want: "x/\nx/a=1\nx/b=>x/a\nx/c=>x/a"},
		{name: "hard link to the stage", headers: []tar.Header{{Name: "n", Linkname: "old", Typeflag: tar.TypeLink, Mode: 0o600}},
			stage: []string{"x/old=1 0600"}, dest: "/x",
			want: "x/\nx/n=1 0600"},
		{name: "hard link to nothing", headers: []tar.Header{hardlink("n", "old")}, dest: "/x", wantErr: "no such file"},
		{name: "file replaces directory", headers: []tar.Header{file("d", "1")}, stage: []string{"x/d/a=1"}, dest: "/x", want: "x/\nx/d=1"},
		{name: "directory replaces symlink", headers: []tar.Header{dirHeader("l"), file("l/f", "1")}, stage: []string{"x/l->../y", "y/a=1"},
			dest: "/x", want: "x/\nx/l/\nx/l/f=1"},
		{name: "directory hides what was there", headers: []tar.Header{file("d", "1"), dirHeader("d")}, stage: []string{"x/d/a=1"}, dest: "/x",
			want: "x/\nx/d/ opaque"},
		{name: "last entry wins", headers: []tar.Header{file("f", "1"), file("f", "2")}, dest: "/x", want: "x/\nx/f=2"},
		{name: "capabilities", headers: []tar.Header{{Name: "f", Linkname: "1", PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "cap", "SCHILY.xattr.user.overlay.opaque": "y"}}}, dest: "/x",
			want: "x/\nx/f=1 +security.capability=cap"},
		{name: "devices", headers: []tar.Header{{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o600},
			{Name: "p", Typeflag: tar.TypeFifo, Mode: 0o600}}, dest: "/x", want: "x/\nx/null!c1:3\nx/p!p"},
		{name: "whiteout device", headers: []tar.Header{{Name: "w", Typeflag: tar.TypeChar}}, dest: "/x", wantErr: "removed file"},
		{name: "dotdot", headers: []tar.Header{file("../f", "1")}, dest: "/x", want: "x/\nx/f=1"},
		{name: "dotdot inside", headers: []tar.Header{file("a/../../f", "1")}, dest: "/x", want: "x/\nx/f=1"},
		{name: "dotdot at the root", headers: []tar.Header{file("../../f", "1")}, dest: "/", want: "f=1"},
		{name: "absolute name", headers: []tar.Header{file("/f", "1")}, dest: "/x", want: "x/\nx/f=1"},
		{name: "symlink out", headers: []tar.Header{symlink("l", "../../etc"), dirHeader("etc"), file("l/f", "1")},
			stage: []string{"etc/"}, dest: "/x", want: "x/\nx/etc/\nx/etc/f=1\nx/l->../../etc"},
		{name: "hard link out", headers: []tar.Header{hardlink("l", "../etc/passwd")}, stage: []string{"etc/passwd=1"}, dest: "/x", wantErr: "no such file"},
		{name: "hard link has the last entry's metadata", dest: "/x", headers: []tar.Header{file("b", "1"),
			{Name: "a", Typeflag: tar.TypeLink, Linkname: "b", Mode: 0o600, Uid: 1}, {Name: "c", Typeflag: tar.TypeLink, Linkname: "a", Mode: 0o640, Uid: 2}},
			want: "x/\nx/a=1 0640 2:0\nx/b=>x/a 0640 2:0\nx/c=>x/a 0640 2:0"},
		{name: "other types for the destination", headers: []tar.Header{symlink(".", "/etc"), file("", "x"), file("./a/..", "x")}, dest: "/x",
			want: "x/"},
		{name: "symlink for the root", headers: []tar.Header{symlink("/", "/etc")}, dest: "/x", wantErr: "cannot be replaced"},
		{name: "directory for the root", headers: []tar.Header{{Name: "/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 3}}, stage: []string{"x/ 0711"},
			dest: "/x", want: "x/ 0700 3:0"},
		{name: "parent is a file", headers: []tar.Header{file("f", "1"), file("f/g", "2")}, dest: "/x", wantErr: "is no directory"},
		{name: "unknown type", headers: []tar.Header{{Name: "f", Typeflag: 'Z'}}, dest: "/x", wantErr: "unknown type"},
		{name: "too many bytes", headers: []tar.Header{file("f", strings.Repeat("x", 4096))}, dest: "/x",
			set: func(r *Request) { r.Limits.Bytes = 2048 }, wantErr: "more bytes than allowed"},
		{name: "too many entries", headers: []tar.Header{file("f", "1"), file("g", "1")}, dest: "/x",
			set: func(r *Request) { r.Limits.Entries = 1 }, wantErr: "more entries than allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stage layer.Tree
			if c.stage != nil {
				stage = tree(t, c.stage...)
			}
			r := addArchive(t, archive(t, c.headers...), c.dest, stage)
			if c.set != nil {
				c.set(&r)
			}
			res, err := Entries(context.Background(), r)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Fatalf("error %v, want one with %q", err, c.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := show(t, itemsOf(t, res)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if err := res.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A sparse file says that it is large and is not: what it unpacks to counts, not what is read for it.
func TestUnpackSparse(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// The PAX form 1.0 of GNU tar: the file begins with the map, here one empty piece of data at the end of a terabyte.
	sparse := make([]byte, 512)
	copy(sparse, "1\n1099511627776\n0\n")
	h := &tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 512, Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{
		"VENDOR.x": "y"}}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(sparse); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// The writer refuses these records, so they are put in by hand.
	data := b.Bytes()
	records := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n37 GNU.sparse.realsize=1099511627776\n"
	for _, r := range strings.SplitAfter(strings.TrimSuffix(records, "\n"), "\n") {
		if n := len(strings.TrimSuffix(r, "\n")) + 1; !strings.HasPrefix(r, strconv.Itoa(n)+" ") {
			t.Fatalf("record %q has length %d", r, n)
		}
	}
	copy(data[512:], records)
	size := fmt.Sprintf("%011o\x00", len(records))
	copy(data[124:136], size)
	fixChecksum(data[:512])
	r := addArchive(t, data, "/", nil)
	r.Limits.Bytes = 1 << 20
	_, err := Entries(context.Background(), r)
	if err == nil || !strings.Contains(err.Error(), "more bytes than allowed") {
		t.Errorf("error %v", err)
	}
}

// fixChecksum writes the checksum of a tar header.
func fixChecksum(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func TestUnpackCompressions(t *testing.T) {
	plainTar := archive(t, file("f", "1"))
	wrap := func(f func(io.Writer) (io.WriteCloser, error)) []byte {
		var b bytes.Buffer
		w, err := f(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plainTar); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, data := range map[string][]byte{
		"plain": plainTar,
		"gzip":  wrap(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"zstd":  wrap(func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		"xz":    wrap(func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
	} {
		res, err := Entries(context.Background(), addArchive(t, data, "/", nil))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := show(t, itemsOf(t, res)); got != "f=1" {
			t.Errorf("%s: got %s", name, got)
		}
		_ = res.Close()
	}
}

// What is no archive is copied as it is.
func TestUnpackOfOther(t *testing.T) {
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, _ = w.Write([]byte("no tar"))
	_ = w.Close()
	for name, data := range map[string][]byte{"empty": nil, "text": []byte("text"), "gzip of text": gz.Bytes(),
		"zeros": make([]byte, 1024), "cut gzip": gz.Bytes()[:5]} {
		res, err := Entries(context.Background(), addArchive(t, data, "/x/", nil))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := show(t, itemsOf(t, res)), "x/\nx/a.tar="+string(data); got != want {
			t.Errorf("%s: got %q", name, got)
		}
		_ = res.Close()
	}
}

func TestDigest(t *testing.T) {
	base := copyCase{src: []string{"d/f=1 0640", "d/s/g=2", "d/l->f"}, paths: "d", dest: "/x"}
	of := func(c copyCase) string {
		t.Helper()
		d, err := Digest(context.Background(), c.request(t))
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	want := of(base)
	for _, c := range []struct {
		name string
		same bool
		edit func(*copyCase)
	}{
		{"times", true, func(c *copyCase) { c.src = []string{"d/f=1 0640 @7", "d/s/ @8", "d/s/g=2 @9", "d/l->f @1"} }},
		{"another folder", true, func(c *copyCase) { c.src = []string{"e/w/f=1 0640", "e/w/s/g=2", "e/w/l->f"}; c.paths = "e/w" }},
		{"files beside", true, func(c *copyCase) { c.src = append(c.src, "other=1") }},
		{"the directory's own mode", true, func(c *copyCase) { c.src = append(c.src, "d/ 0700") }},
		{"content", false, func(c *copyCase) { c.src[0] = "d/f=2 0640" }},
		{"mode", false, func(c *copyCase) { c.src[0] = "d/f=1 0600" }},
		{"name", false, func(c *copyCase) { c.src[0] = "d/ff=1 0640" }},
		{"owner", false, func(c *copyCase) { c.src[0] = "d/f=1 0640 1:1" }},
		{"link target", false, func(c *copyCase) { c.src[2] = "d/l->s" }},
		{"an empty directory more", false, func(c *copyCase) { c.src = append(c.src, "d/t/") }},
		{"capability", false, func(c *copyCase) { c.src[0] += " +security.capability=x" }},
		{"other attribute", true, func(c *copyCase) { c.src[0] += " +user.x=x" }},
		{"chown", false, func(c *copyCase) { c.set = chown("1") }},
		{"chmod", false, func(c *copyCase) { c.set = withChmod("700") }},
		{"exclude", false, func(c *copyCase) { c.set = excl("f") }},
		{"exclude of nothing", true, func(c *copyCase) { c.set = excl("nothing") }},
		{"given twice", false, func(c *copyCase) { c.paths = "d d" }},
	} {
		cc := base
		cc.src = append([]string(nil), base.src...)
		c.edit(&cc)
		if got := of(cc); (got == want) != c.same {
			t.Errorf("%s: same = %v, want %v", c.name, got == want, c.same)
		}
	}
	// Under --chmod the source's modes do not matter.
	a, b := base, base
	a.set, b.set = withChmod("600"), withChmod("600")
	b.src = []string{"d/f=1 0644", "d/s/ 0700", "d/s/g=2 0600", "d/l->f"}
	if of(a) != of(b) {
		t.Error("the source's modes are in the key although --chmod replaces them")
	}
}

// FuzzPattern checks that no source pattern panics, and that what it finds is in the tree.
func FuzzPattern(f *testing.F) {
	for _, p := range []string{"*", "a/*", "[[]", "[^a]/b", `\*`, "../*", "a/./b", "**/f", "l/*", "!a", " a ", "/", ""} {
		f.Add(p, false)
		f.Add(p, true)
	}
	f.Fuzz(func(t *testing.T, pattern string, keepParents bool) {
		src := tree(t, "a/b/f=1", "a/c=2", "l->a", "[x]=3", "e/")
		r := Request{Dest: "/d/", Parents: keepParents, Sources: []Source{{Tree: src, Path: pattern}}, Time: epoch}
		res, err := Entries(context.Background(), r)
		if err != nil {
			return
		}
		for _, it := range itemsOf(t, res) {
			if it.Path != "d" && !strings.HasPrefix(it.Path, "d/") || !fs.ValidPath(it.Path) {
				t.Errorf("%q copies to %q", pattern, it.Path)
			}
		}
	})
}

// FuzzUnpack checks that no archive panics or gets out of the destination.
func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, dirHeader("d"), file("d/f", "1"), symlink("d/l", "/"), hardlink("h", "d/f"), file("d/l/x", "2")))
	f.Add(archive(f, symlink("a", "b"), symlink("b", "a"), file("a/x", "")))
	temp := attack.Dir(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		r := addArchive(t, data, "/x/y", tree(t, "x/y/l->/z", "z/f=1"))
		r.Limits = layer.Limits{Bytes: 1 << 20, Entries: 1000, Temp: nameless(temp)}
		res, err := Entries(context.Background(), r)
		if err != nil {
			return
		}
		defer res.Close()
		for _, it := range itemsOf(t, res) {
			if !fs.ValidPath(it.Path) || it.Path == "." {
				t.Errorf("an entry %q", it.Path)
			}
		}
	})
}
