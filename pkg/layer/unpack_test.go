package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// The names of these tests are the rows of the table of attacks in docs/SECURITY.md.

func TestUnpackA1Traversal(t *testing.T) {
	for _, name := range layertest.Climbing() {
		t.Run(name, func(t *testing.T) {
			c, dir := newCanary(t)
			ix, err := unpackTar(t, dir, nil, rf(strings.TrimSuffix(name, "/"), "mine"))
			must(t, err)
			c.Check(t)
			want := cleanName(name)
			if len(entriesOf(ix)) != 1 || entriesOf(ix)[0].Path != want {
				t.Errorf("entries %v", entriesOf(ix))
			}
			if b, err := os.ReadFile(filepath.Join(dir, want)); err != nil || string(b) != "mine" {
				t.Errorf("%q: %q, %v", want, b, err)
			}
		})
	}
	for _, name := range layertest.Root() {
		t.Run("file "+name, func(t *testing.T) {
			c, dir := newCanary(t)
			if _, err := unpackTar(t, dir, nil, rf(strings.TrimSuffix(name, "/"), "mine")); err == nil {
				t.Error("the root was replaced")
			}
			c.Check(t)
		})
	}
}

func TestUnpackA2ThroughSymlinks(t *testing.T) {
	for _, c := range layertest.Hostile() {
		if c.Row != "A2" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			can, dir := newCanary(t)
			var lower Tree
			if c.Lower != nil {
				ix, err := unpackTar(t, dir, nil, c.Lower...)
				must(t, err)
				lower, dir = Stack([]*Index{ix}, nil), filepath.Join(dir, "next")
				must(t, os.Mkdir(dir, 0o755))
			}
			// Refusing is as good as staying inside.
			_, _ = unpackTar(t, dir, lower, c.Layer...)
			can.Check(t)
		})
	}
	if _, err := unpackTar(t, t.TempDir(), nil, rl("a", "b"), rl("b", "a"), rf("a/x", "")); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
	if _, err := unpackTar(t, t.TempDir(), nil, rl("a", strings.Repeat("a/", 2000)), rf("a/x", "")); err == nil {
		t.Error("a link that grows was followed")
	}
}

func TestUnpackA3Leaf(t *testing.T) {
	c, dir := newCanary(t)
	r := rl("link", "../../../etc/passwd")
	r.Uid, r.Gid, r.Mode = 1, 1, 0
	_, err := unpackTar(t, dir, nil, r, rh("again", "link"))
	must(t, err)
	c.Check(t)
}

func TestUnpackA4Root(t *testing.T) {
	for _, name := range layertest.Root() {
		for _, typ := range []byte{tar.TypeReg, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeCont} {
			h := th(strings.TrimSuffix(name, "/"), typ)
			h.Linkname, h.Devmajor = "/etc", 1
			if name == "/" {
				h.Name = "//."
			}
			c, dir := newCanary(t)
			if _, err := unpackTar(t, dir, nil, rf("f", ""), h); err == nil {
				t.Errorf("%q of type %c was accepted", name, typ)
			}
			c.Check(t)
		}
	}
	dir := t.TempDir()
	r := rd("./")
	r.Mode, r.Uid = 0o1711, 3
	_, err := unpackTar(t, dir, nil, r)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	if st.Mode&0o7777 != 0o1711 || st.Uid != 3 || st.Mtim.Sec != 1000 {
		t.Errorf("root is %o, owner %d, time %d", st.Mode, st.Uid, st.Mtim.Sec)
	}
}

// What must come out of the classes of containerd's TestBreakouts and umoci's scoping tests.
func TestUnpackA5Breakouts(t *testing.T) {
	for _, c := range layertest.Hostile() {
		if c.Row != "A5" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			below, dir := newCanary(t)
			ix, err := unpackTar(t, dir, nil, c.Lower...)
			must(t, err)
			below.Check(t)
			can, upper := newCanary(t)
			defer can.Check(t)
			next, err := unpackTar(t, upper, Stack([]*Index{ix}, nil), c.Layer...)
			if c.Verdict == layertest.Refused {
				if err == nil {
					t.Error("accepted")
				}
				return
			}
			must(t, err)
			dirs := []string{dir, upper}
			if got := files(t, openDir(t, mount(t, "", dirs...))); got != c.Files {
				t.Errorf("overlay has %q, want %q", got, c.Files)
			}
			tree := Stack([]*Index{ix, next}, func(n int, name string) (io.ReadCloser, error) { return os.Open(filepath.Join(dirs[n], name)) })
			if got := files(t, tree); got != c.Files {
				t.Errorf("stack has %q, want %q", got, c.Files)
			}
		})
	}
}

// files lists the regular files of a tree with their content.
func files(t testing.TB, tree Tree) string {
	t.Helper()
	var out []string
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := layertest.All(tree.ReadDir(dir))
		must(t, err)
		for _, e := range entries {
			if e.Type == Dir {
				walk(e.Path)
			}
			if e.Type == File {
				f, err := tree.Open(e.Path)
				must(t, err)
				b, err := io.ReadAll(f)
				must(t, err)
				f.Close()
				out = append(out, e.Path+"="+string(b))
			}
		}
	}
	walk(".")
	return strings.Join(out, " ")
}

func TestUnpackA6HardlinkAndWorkingDirectory(t *testing.T) {
	c, dir := newCanary(t)
	t.Chdir(filepath.Join(c.Dir, "outside/dir"))
	for _, target := range []string{"passwd", "../../etc/passwd", "x", "link", filepath.Join(c.Dir, "x")} {
		if _, err := unpackTar(t, dir, nil, rh("stolen", target)); err == nil {
			t.Errorf("linked to %q", target)
		}
	}
	c.Check(t)
}

func TestUnpackA11DevicesAndNotes(t *testing.T) {
	dev := func(name string, typ byte, major, minor int64) raw {
		r := th(name, typ)
		r.Devmajor, r.Devminor = major, minor
		return r
	}
	for name, r := range map[string]raw{"whiteout device": dev("f", tar.TypeChar, 0, 0), "negative": dev("f", tar.TypeBlock, -1, 0), "huge": dev("f", tar.TypeChar, 1<<20, 0)} {
		r.Format = tar.FormatGNU
		if _, err := unpackTar(t, t.TempDir(), nil, r); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	notes := map[string]string{}
	for _, ns := range []string{"user", "trusted"} {
		for k, v := range map[string]string{"opaque": "y", "redirect": "/etc", "metacopy": "", "origin": "x", "whiteout": "y", "upper": "z"} {
			notes["SCHILY.xattr."+ns+".overlay."+k] = v
		}
	}
	notes["SCHILY.xattr.security.selinux"] = "unconfined_u"
	notes["SCHILY.xattr.trusted.other"] = "x"
	notes["SCHILY.xattr.user.mine"] = "kept"
	evilDir, evilFile := rd("a"), rf("b", "")
	evilDir.PAXRecords, evilFile.PAXRecords = notes, notes
	dirs, tree := stackOf(t, []raw{rd("a"), rf("a/below", "x"), rf("b", "below"), rf("etc", "secret")}, []raw{evilDir, evilFile})
	for _, name := range []string{"a", "b"} {
		var names [4096]byte
		n, err := unix.Listxattr(filepath.Join(dirs[1], name), names[:])
		must(t, err)
		for x := range strings.SplitSeq(strings.Trim(string(names[:n]), "\x00"), "\x00") {
			if x != "user.mine" && !strings.HasPrefix(x, "user.overlay.overlay.") {
				t.Errorf("%s carries %s", name, x)
			}
		}
	}
	if got := files(t, openDir(t, mount(t, "", dirs...))); got != "a/below=x b= etc=secret" {
		t.Errorf("overlay has %q", got)
	}
	if got := files(t, tree); got != "a/below=x b= etc=secret" {
		t.Errorf("stack has %q", got)
	}
	e, err := tree.Lstat("b")
	must(t, err)
	if e.Xattrs["user.overlay.opaque"] != "y" || e.Xattrs["trusted.overlay.opaque"] != "" || e.Xattrs["security.selinux"] != "" {
		t.Errorf("%v", e.Xattrs)
	}
}

// Where devices cannot be made sockets stand for them: a layer above can remove them and change what is said of them.
func TestUnpackA11DevicesInUserNamespace(t *testing.T) {
	if os.Getenv("CAIRN_TEST_UNPACK") == "" {
		dir := t.TempDir()
		cmd := exec.Command("unshare", "-Ur", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "CAIRN_TEST_UNPACK="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("PASS")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := filepath.Join(os.Getenv("CAIRN_TEST_UNPACK"), "d")
	must(t, os.Mkdir(dir, 0o755))
	null := th("dev/null", tar.TypeChar)
	null.Devmajor, null.Devminor = 1, 3
	ix, err := unpackTar(t, dir, nil, rd("dev"), null, rh("dev/zero", "dev/null"), rf("f", "x"))
	must(t, err)
	if e, ok := ix.Lookup("dev/null"); !ok || e.Type != Char {
		t.Errorf("index: %v", entriesOf(ix))
	}
	for _, name := range []string{"null", "zero"} {
		if fi, err := os.Lstat(filepath.Join(dir, "dev", name)); err != nil || fi.Mode() != os.ModeSocket|fs.FileMode(null.Mode) {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	lower := Stack([]*Index{ix}, nil)
	up := filepath.Join(os.Getenv("CAIRN_TEST_UNPACK"), "u")
	must(t, os.Mkdir(up, 0o755))
	_, err = unpackTar(t, up, lower, rf(".wh.f", ""))
	must(t, err)
	if fi, err := os.Lstat(filepath.Join(up, "f")); err != nil || fi.Mode().Type() != os.ModeDevice|os.ModeCharDevice {
		t.Errorf("whiteout: %v, %v", fi, err)
	}
}

func TestUnpackA12FalseDiffID(t *testing.T) {
	l := write(t, Compression{}, file("a", "x"))
	for _, d := range []digest.Digest{digest.FromString("other"), "", "sha256:../../x", "sha256:00"} {
		if _, err := Unpack(context.Background(), bytes.NewReader(l.blob), Layer{DiffID: d}, t.TempDir(), nil, Limits{}); err == nil {
			t.Errorf("DiffID %q accepted", d)
		}
	}
	for _, cut := range []int{0, 1, 10, len(l.blob) / 2, len(l.blob) - 1} {
		if _, err := Unpack(context.Background(), bytes.NewReader(l.blob[:cut]), l.Layer, t.TempDir(), nil, Limits{}); err == nil {
			t.Errorf("cut at %d of %d: accepted", cut, len(l.blob))
		}
	}
}

func TestUnpackA13TrailingBytes(t *testing.T) {
	plain := rawTar(t, rf("a", "x"))
	junk := append(bytes.Clone(plain), "junk"...)
	if _, err := Unpack(context.Background(), bytes.NewReader(junk), layerOf(plain), "", nil, Limits{}); err == nil {
		t.Error("junk that the DiffID does not cover was accepted")
	}
	r := &countingReader{r: bytes.NewReader(junk)}
	if _, err := Unpack(context.Background(), r, layerOf(junk), "", nil, Limits{}); err != nil {
		t.Error(err)
	}
	if !r.eof {
		t.Error("the blob was not read to its end")
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, err := w.Write(plain)
	must(t, err)
	must(t, w.Close())
	z.WriteString("junk after the compressed stream")
	if _, err := Unpack(context.Background(), &z, layerOf(plain), "", nil, Limits{}); err == nil {
		t.Error("junk after gzip was accepted")
	}
	failing := io.MultiReader(bytes.NewReader(plain), &failingReader{})
	if _, err := Unpack(context.Background(), failing, layerOf(plain), "", nil, Limits{}); !errors.Is(err, errVerify) {
		t.Errorf("an error of the verifying reader at its end is lost: %v", err)
	}
}

var errVerify = errors.New("digest mismatch")

type failingReader struct{}

func (*failingReader) Read([]byte) (int, error) { return 0, errVerify }

type countingReader struct {
	r   io.Reader
	eof bool
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.eof = c.eof || err == io.EOF
	return n, err
}

func TestUnpackA14Parsers(t *testing.T) {
	override := rf("short", "content")
	override.PAXRecords = map[string]string{"path": "real/name"}
	override.Name, override.Format = "real/name", tar.FormatPAX
	deep := strings.TrimSuffix(strings.Repeat("d/", 100), "/")
	dirs, tree := stackOf(t, []raw{rf("dup", "first"), rd("dup2"), rf("dup", "last"), rf("dup2", "file"), rf("Case", "1"), rf("case", "2"),
		override, rf(deep+"/f", "deep"), rf("new\nline\x1b[31m", "esc"), {Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "global"}}}, rf("after", "a")})
	want := files(t, tree)
	if got := files(t, openDir(t, dirs[0])); got != want {
		t.Errorf("%q and %q", got, want)
	}
	if want != "Case=1 after=a case=2 "+deep+"/f=deep dup=last dup2=file new\nline\x1b[31m=esc real/name=content" {
		t.Errorf("%q", want)
	}
}

// A manifest that is also an index is for those who read manifests; here a layer must not be two things: two members of gzip are
// one stream, and what follows another magic is not guessed at.
func TestUnpackA15OneMeaning(t *testing.T) {
	plain := rawTar(t, rf("a", "x"))
	var z bytes.Buffer
	for _, part := range [][]byte{plain[:700], plain[700:]} {
		w := gzip.NewWriter(&z)
		_, err := w.Write(part)
		must(t, err)
		must(t, w.Close())
	}
	ix, err := Unpack(context.Background(), &z, layerOf(plain), "", nil, Limits{})
	must(t, err)
	if len(entriesOf(ix)) != 1 {
		t.Error(entriesOf(ix))
	}
}

func TestUnpackMetadata(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o2755))
	must(t, os.Chown(dir, 0, 12))
	l := write(t, Compression{}, everything()...)
	ix, err := Unpack(context.Background(), bytes.NewReader(l.blob), l.Layer, dir, nil, Limits{})
	must(t, err)
	got := show(t, openDir(t, dir), true)
	want := show(t, Stack([]*Index{ix}, nil), true)
	if got != want {
		t.Errorf("index (-) and disk (+):\n%s", diff(want, got))
	}
	nanos := rf("f", "x")
	nanos.ModTime, nanos.Format = time.Unix(5, 123456789), tar.FormatPAX
	ix, err = unpackTar(t, dir, nil, nanos)
	must(t, err)
	fi, err := os.Lstat(filepath.Join(dir, "f"))
	must(t, err)
	if !fi.ModTime().Equal(nanos.ModTime) || !entriesOf(ix)[0].ModTime.Equal(nanos.ModTime) {
		t.Errorf("%v and %v", fi.ModTime(), entriesOf(ix)[0].ModTime)
	}
}

func TestUnpackCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	pr, pw := io.Pipe()
	go func() {
		tw := tar.NewWriter(pw)
		for i := 0; ; i++ {
			if i == 1000 {
				cancel()
			}
			if tw.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg}) != nil {
				return
			}
		}
	}()
	_, err := Unpack(ctx, pr, layerOf(nil), t.TempDir(), nil, Limits{})
	pr.Close()
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDecompress(t *testing.T) {
	data := gzipCorpus()[:1<<20]
	tools := map[string][]string{"gzip": {"gzip", "-c"}, "bzip2": {"bzip2", "-c"}, "xz": {"xz", "-c"}, "uncompressed": {"cat"}, "zstd": nil}
	for kind, tool := range tools {
		var blob []byte
		if tool == nil {
			e, err := zstd.NewWriter(nil)
			must(t, err)
			blob = e.EncodeAll(data, nil)
		} else {
			cmd := exec.Command(tool[0], tool[1:]...)
			cmd.Stdin = bytes.NewReader(data)
			var err error
			blob, err = cmd.Output()
			must(t, err)
		}
		r, got, err := Decompress(bytes.NewReader(blob))
		must(t, err)
		out, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		if got != kind || !bytes.Equal(out, data) {
			t.Errorf("%s: %d bytes of kind %s", kind, len(out), got)
		}
	}
	for _, short := range []string{"", "x", "\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		r, _, err := Decompress(strings.NewReader(short))
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if err == nil && len(short) > 1 {
			t.Errorf("%q was read", short)
		}
	}
	// An xz block that asks for a dictionary of 4 GiB: header size 3*4, one filter, LZMA2, 40.
	bomb := append([]byte{0xfd, '7', 'z', 'X', 'Z', 0, 0, 4, 0xe6, 0xd6, 0xb4, 0x46}, 2, 0, 0x21, 1, 40, 0, 0, 0)
	bomb = binary.LittleEndian.AppendUint32(bomb, 0)
	if _, _, err := Decompress(bytes.NewReader(append(bomb, make([]byte, 100)...))); err == nil || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("%v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		f.Add(rawTar(f, grammar(rnd)...))
	}
	f.Add(write(f, Compression{}, everything()...).blob)
	f.Add(write(f, Compression{Type: "zstd"}, everything()...).blob)
	c, dir := newCanary(f)
	f.Fuzz(func(t *testing.T, blob []byte) {
		c.Renew(t)
		var plain bytes.Buffer
		if r, _, err := Decompress(bytes.NewReader(blob)); err == nil {
			_, _ = io.Copy(&plain, io.LimitReader(r, 16<<20))
			r.Close()
		}
		lower := Stack([]*Index{indexOf(Entry{Path: "a", Type: Symlink, Linkname: "/etc"}, Entry{Path: "b", Type: Dir, Mode: 0o755})}, nil)
		ix, err := Unpack(context.Background(), bytes.NewReader(blob), Layer{DiffID: digest.FromBytes(plain.Bytes())}, dir, lower, Limits{Bytes: 16 << 20, Entries: 10_000})
		c.Check(t)
		if err != nil {
			return
		}
		if err := checkOrder(entriesOf(ix)); err != nil {
			t.Error(err)
		}
		if _, err := Unmarshal(marshal(ix)); err != nil {
			t.Error(err)
		}
	})
}
