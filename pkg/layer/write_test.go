package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func epoch(sec int64) time.Time { return time.Unix(sec, 0).UTC() }

// built is a layer that was written in memory.
type built struct {
	Layer
	blob []byte
	ix   *Index
}

func write(t testing.TB, c Compression, items ...Item) built {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteAll(context.Background(), w, items); err != nil {
		t.Fatal(err)
	}
	return closed(t, w, &b)
}

func closed(t testing.TB, w *Writer, b *bytes.Buffer) built {
	t.Helper()
	diffID, mt, ix, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	l := built{blob: b.Bytes(), ix: ix}
	l.DiffID, l.Descriptor.MediaType = diffID, mt
	return l
}

func item(e Entry, content string) Item {
	e.Size = int64(len(content))
	return Item{Entry: e, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

func file(name, content string) Item {
	return item(Entry{Path: name, Type: File, Mode: 0o644, ModTime: epoch(1000)}, content)
}

func entry(name string, typ Type) Item {
	return Item{Entry: Entry{Path: name, Type: typ, Mode: 0o755, ModTime: epoch(1000)}}
}

func symlink(name, target string) Item {
	it := entry(name, Symlink)
	it.Mode, it.Linkname = 0o777, target
	return it
}

func hardlink(name, target string) Item {
	return Item{Entry: Entry{Path: name, Type: Hardlink, Linkname: target}}
}

// everything is one of each thing a layer can hold.
func everything() []Item {
	long := strings.Repeat("long/", 60) + "name"
	suid := item(Entry{Path: "bin/su", Type: File, Mode: 0o4755, UID: 0, GID: 5, ModTime: epoch(5),
		Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.a": "b=c\nd"}}, "su")
	opaque := entry("opq", Dir)
	opaque.Opaque = true
	tmp := entry("tmp", Dir)
	tmp.Mode = 0o1777
	big := item(Entry{Path: "big ids", Type: File, Mode: 0o600, UID: 3_000_000_000, GID: 2_097_152, ModTime: epoch(-5)}, "x")
	char := entry("dev/null", Char)
	char.Mode, char.Devmajor, char.Devminor = 0o666, 1, 3
	return []Item{
		entry("bin", Dir), suid, hardlink("bin/zz", "bin/su"), symlink("bin/sh", "/usr/bin/dash"), opaque, file("opq/x", "new"), tmp, big,
		entry("dev", Dir), char, entry("run", Dir), entry("run/fifo", Fifo), entry("etc", Dir), file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
		entry("gone", Whiteout), file(long, "deep"), file("caf\xe9", "latin"), file("ü/ß", "utf-8"), file("empty", ""), file("nl\nname", "n"),
	}
}

func TestWriterAgreesWithReader(t *testing.T) {
	for _, c := range []Compression{{}, {Type: "gzip", Level: 9}, {Type: "gzip", Level: 1}, {Type: "zstd"}, {Type: "zstd", Level: 19}, {Type: "uncompressed"}} {
		l := write(t, c, everything()...)
		ix, err := Unpack(context.Background(), bytes.NewReader(l.blob), l.Layer, "", nil, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(entriesOf(ix), entriesOf(l.ix)) {
			t.Errorf("%v: read %v\nwrote %v", c, entriesOf(ix), entriesOf(l.ix))
		}
		if !reflect.DeepEqual(ix.names, l.ix.names) || len(ix.names) != 1 {
			t.Errorf("%v: names %q and %q", c, ix.names, l.ix.names)
		}
		again, err := Unmarshal(marshal(l.ix))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(entriesOf(again), entriesOf(l.ix)) || !reflect.DeepEqual(again.names, l.ix.names) || !reflect.DeepEqual(again.implicit, l.ix.implicit) {
			t.Errorf("decoded index differs")
		}
	}
}

func TestWriterHeaders(t *testing.T) {
	l := write(t, Compression{Type: "uncompressed"}, everything()...)
	if got := digest.FromBytes(l.blob); got != l.DiffID {
		t.Errorf("DiffID %s, content %s", l.DiffID, got)
	}
	tr := tar.NewReader(bytes.NewReader(l.blob))
	formats := map[string]tar.Format{}
	var order []string
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, h.Name)
		formats[h.Name] = h.Format
		if h.Uname != "" || h.Gname != "" || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero() || h.ModTime.Nanosecond() != 0 {
			t.Errorf("%s: %+v", h.Name, h)
		}
		if strings.Contains(h.Name, ".wh.") && (h.Mode != 0 || h.Uid != 0 || h.ModTime.Unix() != 0 || h.Typeflag != tar.TypeReg) {
			t.Errorf("whiteout %+v", h)
		}
		if h.Name == "bin/zz" && (h.Mode != 0o4755 || h.Gid != 5 || h.PAXRecords["SCHILY.xattr.user.a"] != "b=c\nd") {
			t.Errorf("a hard link has not the header of its file: %+v", h)
		}
	}
	for name, want := range map[string]tar.Format{"bin/": tar.FormatUSTAR, "bin/su": tar.FormatPAX, "caf\xe9": tar.FormatPAX, "big ids": tar.FormatPAX, "empty": tar.FormatUSTAR, ".wh.gone": tar.FormatUSTAR, "tmp/": tar.FormatUSTAR} {
		if formats[name] != want {
			t.Errorf("%q is %v, want %v", name, formats[name], want)
		}
	}
	want := "big ids|bin/|bin/sh|bin/su|bin/zz|caf\xe9|dev/|dev/null|empty|etc/|etc/passwd|.wh.gone|" + strings.Repeat("long/", 60) + "name|nl\nname|opq/|opq/.wh..wh..opq|opq/x|run/|run/fifo|tmp/|ü/ß"
	if got := strings.Join(order, "|"); got != want {
		t.Errorf("order %q\nwant  %q", got, want)
	}
}

func TestEmptyLayer(t *testing.T) {
	l := write(t, Compression{})
	if l.DiffID != "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef" {
		t.Errorf("DiffID %s", l.DiffID)
	}
	if got := digest.FromBytes(l.blob); got != "sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1" {
		t.Errorf("blob %s", got)
	}
	if l.Descriptor.MediaType != "application/vnd.oci.image.layer.v1.tar+gzip" {
		t.Error(l.Descriptor.MediaType)
	}
	z, err := gzip.NewReader(bytes.NewReader(l.blob))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || !bytes.Equal(b, make([]byte, 1024)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for _, c := range []Compression{{Type: "zstd"}, {Type: "uncompressed"}, {Level: 3}} {
		if l := write(t, c); l.DiffID != "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef" {
			t.Errorf("%v: DiffID %s", c, l.DiffID)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	dir, f := entry("d", Dir), file("d/f", "x")
	for name, items := range map[string][]Item{
		"disorder":        {file("b", ""), file("a", "")},
		"twice":           {file("a", ""), file("a", "")},
		"whiteout name":   {file(".wh.x", "")},
		"opaque name":     {dir, file("d/.wh..wh..opq", "")},
		"whiteout dir":    {entry(".wh.x", Dir)},
		"absolute":        {file("/a", "")},
		"dotdot":          {file("a/../b", "")},
		"empty":           {file("", "")},
		"trailing slash":  {entry("a/", Dir)},
		"root file":       {file(".", "")},
		"long name":       {file(strings.Repeat("n", 256), "")},
		"long path":       {file(strings.Repeat("n/", 2048)+"n", "")},
		"link to nothing": {hardlink("a", "b")},
		"link to dir":     {dir, hardlink("e", "d")},
		"link to link":    {dir, f, hardlink("d/g", "d/f"), hardlink("d/h", "d/g")},
		"uid":             {{Entry: Entry{Path: "a", Type: File, UID: -1}}},
		"big uid":         {{Entry: Entry{Path: "a", Type: File, UID: 1 << 32}}},
		"mode":            {{Entry: Entry{Path: "a", Type: File, Mode: 0o100644}}},
		"short":           {{Entry: Entry{Path: "a", Type: File, Size: 3}, Open: f.Open}},
		"long":            {{Entry: Entry{Path: "a", Type: File, Size: 0}, Open: f.Open}},
		"digest":          {{Entry: Entry{Path: "a", Type: File, Size: 1, Sum: SumOf(digest.FromString("y"))}, Open: f.Open}},
		"type":            {{Entry: Entry{Path: "a", Type: 'x'}}},
		"NUL":             {file("a\x00b", "")},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := NewWriter(io.Discard, Compression{})
			if err != nil {
				t.Fatal(err)
			}
			for i := range items {
				if err = WriteItem(t.Context(), w, items[i]); err != nil {
					break
				}
			}
			if err == nil {
				t.Fatal("written")
			}
			if _, _, _, err2 := w.Close(); err2 == nil {
				t.Error("closed after an error")
			}
		})
	}
	for _, c := range []Compression{{Type: "lzma"}, {Type: "gzip", Level: 10}, {Type: "zstd", Level: -1}, {Type: "zstd", Level: 23}} {
		if _, err := NewWriter(io.Discard, c); err == nil {
			t.Errorf("%v accepted", c)
		}
	}
}

func TestWriteAllLastWins(t *testing.T) {
	l := write(t, Compression{}, file("b", "1"), file("a", "0"), file("b", "2"))
	if e, _ := l.ix.Lookup("b"); e.Sum.Digest() != digest.FromString("2") || len(entriesOf(l.ix)) != 2 {
		t.Errorf("%v", entriesOf(l.ix))
	}
}

func TestWriterClamp(t *testing.T) {
	limit := epoch(500)
	var b bytes.Buffer
	w, err := NewWriter(&b, Compression{})
	if err != nil {
		t.Fatal(err)
	}
	w.Clamp = &limit
	old := file("old", "x")
	old.ModTime = time.Unix(400, 999)
	if err := WriteAll(context.Background(), w, []Item{file("new", "x"), old, entry("gone", Whiteout)}); err != nil {
		t.Fatal(err)
	}
	l := closed(t, w, &b)
	for name, want := range map[string]int64{"new": 500, "old": 400} {
		if e, _ := l.ix.Lookup(name); !e.ModTime.Equal(epoch(want)) {
			t.Errorf("%s: %v", name, e.ModTime)
		}
	}
}

func TestRewrite(t *testing.T) {
	src := write(t, Compression{}, everything()...)
	limit := epoch(7)
	var b bytes.Buffer
	w, err := NewWriter(&b, Compression{Type: "zstd"})
	if err != nil {
		t.Fatal(err)
	}
	w.Clamp = &limit
	if err := Rewrite(context.Background(), bytes.NewReader(src.blob), src.Layer, w); err != nil {
		t.Fatal(err)
	}
	if w.check(&Entry{Path: "zzz", Type: File}) == nil {
		t.Error("a rewritten layer takes entries")
	}
	got := closed(t, w, &b)

	// The same as if it had been written so.
	var c bytes.Buffer
	w, err = NewWriter(&c, Compression{})
	if err != nil {
		t.Fatal(err)
	}
	w.Clamp = &limit
	if err := WriteAll(context.Background(), w, everything()); err != nil {
		t.Fatal(err)
	}
	want := closed(t, w, &c)
	if got.DiffID != want.DiffID || !reflect.DeepEqual(entriesOf(got.ix), entriesOf(want.ix)) {
		t.Errorf("rewritten %s, written %s", got.DiffID, want.DiffID)
	}
	bad := src.Layer
	bad.DiffID = got.DiffID
	w, _ = NewWriter(io.Discard, Compression{})
	if err := Rewrite(context.Background(), bytes.NewReader(src.blob), bad, w); err == nil {
		t.Error("a layer with another DiffID was rewritten")
	}
}

// gzipCorpus is text, random bytes and zeros, several blocks of each.
func gzipCorpus() []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < 3<<20 {
		fmt.Fprintf(&b, "line %d of the %d corpus, %x\n", rnd.IntN(100), rnd.IntN(3), rnd.IntN(1<<20))
	}
	for b.Len() < 6<<20 {
		b.WriteByte(byte(rnd.Uint32()))
	}
	b.Write(make([]byte, 2<<20))
	return b.Bytes()
}

func TestGzipIsTheSameEverywhere(t *testing.T) {
	data := gzipCorpus()
	var first []byte
	for _, procs := range []int{1, 2, 7} {
		for _, cut := range []int{1 << 20, 1 << 22, 4097, 64 << 10} {
			old := runtime.GOMAXPROCS(procs)
			var b bytes.Buffer
			z := newGzipWriter(&b, gzipLevel)
			runtime.GOMAXPROCS(old)
			for rest := data; len(rest) > 0; rest = rest[min(cut, len(rest)):] {
				if _, err := z.Write(rest[:min(cut, len(rest))]); err != nil {
					t.Fatal(err)
				}
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = b.Bytes()
			} else if !bytes.Equal(first, b.Bytes()) {
				t.Fatalf("with %d processors and writes of %d the bytes differ", procs, cut)
			}
		}
	}
	z, err := gzip.NewReader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read back %d of %d bytes, %v", len(got), len(data), err)
	}
}

// The bytes of blobs are part of what makes a build reproducible: an update of the compressor that changes them must be seen.
func TestGzipGolden(t *testing.T) {
	var b bytes.Buffer
	z := newGzipWriter(&b, gzipLevel)
	if _, err := z.Write(gzipCorpus()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	if got := hex.EncodeToString(sum[:8]); got != gzipGolden {
		t.Errorf("gzip bytes changed: %s, not %s", got, gzipGolden)
	}
}

const gzipGolden = "d1ffaa6f14466c10"

func TestGzipReportsErrors(t *testing.T) {
	z := newGzipWriter(failingWriter{}, gzipLevel)
	var err error
	for range 100 {
		if _, err = z.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	if err == nil || z.Close() == nil {
		t.Error("errors of the destination are lost")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no space") }

// A layer that is being written ends with its context, in the middle of a file too.
func TestWriteAllCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped")
	endless := Item{Entry: Entry{Path: "endless", Type: File, Size: 1 << 60}, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(readerFunc(func(p []byte) (int, error) {
			cancel(stop)
			clear(p)
			return len(p), nil
		})), nil
	}}
	w, err := NewWriter(io.Discard, Compression{})
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteAll(ctx, w, []Item{endless}); !errors.Is(err, stop) {
		t.Errorf("WriteAll: %v", err)
	}
}
