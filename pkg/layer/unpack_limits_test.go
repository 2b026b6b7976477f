package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

func TestUnpackA8Bombs(t *testing.T) {
	zeros := func(w io.Writer, n int64) {
		_, err := io.CopyN(w, zeroReader{}, n)
		must(t, err)
	}
	header := rawTar(t, func() raw { r := rf("bomb", ""); r.Size = 0; return r }())[:512]
	tar1G := func(w io.Writer) {
		h := bytes.Clone(header)
		copy(h[124:136], fmt.Sprintf("%011o\x00", 1<<30))
		copy(h[148:156], "        ")
		sum := 0
		for _, b := range h {
			sum += int(b)
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		_, err := w.Write(h)
		must(t, err)
		zeros(w, 1<<30)
	}
	var gz, zs bytes.Buffer
	z := gzip.NewWriter(&gz)
	tar1G(z)
	must(t, z.Close())
	e, err := zstd.NewWriter(&zs)
	must(t, err)
	tar1G(e)
	must(t, e.Close())
	var many bytes.Buffer
	for i := range 5_000 {
		many.Write(rawTar(t, rf(fmt.Sprint(i), ""))[:512])
	}
	many.Write(make([]byte, 1024))
	for name, c := range map[string]struct {
		blob []byte
		lim  Limits
	}{
		"gzip":    {gz.Bytes(), Limits{Bytes: 64 << 20}},
		"zstd":    {zs.Bytes(), Limits{Bytes: 64 << 20}},
		"entries": {many.Bytes(), Limits{Entries: 4_999}},
		"trailer": {append(rawTar(t, rf("a", "")), make([]byte, 10<<20)...), Limits{Bytes: 1 << 20}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Unpack(context.Background(), bytes.NewReader(c.blob), layerOf(c.blob), dir, nil, c.lim)
			if !errors.Is(err, ErrLimit) {
				t.Errorf("%v", err)
			}
		})
	}
	names := rawTar(t, rf(strings.Repeat("n/", 2047)+"n", ""))
	if _, err := Unpack(context.Background(), bytes.NewReader(names), layerOf(names), t.TempDir(), nil, Limits{}); err != nil {
		t.Errorf("the longest path: %v", err)
	}
	for name, e := range map[string]raw{
		"long path": rf(strings.Repeat("n/", 2048)+"n", ""), "long name": rf(strings.Repeat("n", 256), ""), "long target": rl("l", strings.Repeat("x", 4096)),
		"big attribute": func() raw {
			r := rf("f", "")
			r.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 65<<10)}
			return r
		}(),
	} {
		if _, err := unpackTar(t, t.TempDir(), nil, e); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Memory must not follow what a layer claims. Names are bounded together, not only one by one.
func TestUnpackA8Memory(t *testing.T) {
	pr, pw := io.Pipe()
	go func() {
		tw := tar.NewWriter(pw)
		long := strings.Repeat(strings.Repeat("d", 250)+"/", 15)
		for i := 0; ; i++ {
			if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("%s%d", long, i), Typeflag: tar.TypeReg, ModTime: epoch(0), Format: tar.FormatPAX}); err != nil {
				return
			}
		}
	}()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	_, err := Unpack(context.Background(), pr, layerOf(nil), "", nil, Limits{})
	runtime.ReadMemStats(&after)
	pr.Close()
	if !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 512<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func TestUnpackA9Sparse(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Fatal("this test needs GNU tar")
	}
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 8<<20)
	must(t, err)
	must(t, f.Truncate(9<<20))
	must(t, f.Close())
	huge, err := os.Create(filepath.Join(src, "huge"))
	must(t, err)
	must(t, huge.Truncate(1<<40))
	must(t, huge.Close())
	for _, format := range []string{"gnu", "pax"} {
		blob, err := exec.Command("tar", "-C", src, "-cS", "--format="+format, "sparse").Output()
		must(t, err)
		dir := t.TempDir()
		ix, err := Unpack(context.Background(), bytes.NewReader(blob), layerOf(blob), dir, nil, Limits{})
		must(t, err)
		got, err := os.ReadFile(filepath.Join(dir, "sparse"))
		must(t, err)
		if len(got) != 9<<20 || string(got[8<<20:8<<20+3]) != "end" || entriesOf(ix)[0].Sum.Digest() != digest.FromBytes(got) {
			t.Errorf("%s: %d bytes", format, len(got))
		}
		blob, err = exec.Command("tar", "-C", src, "-cS", "--format="+format, "huge").Output()
		must(t, err)
		if _, err = Unpack(context.Background(), bytes.NewReader(blob), layerOf(blob), dir, nil, Limits{}); !errors.Is(err, ErrLimit) {
			t.Errorf("%s: a sparse file of 1 TiB: %v", format, err)
		}
	}
}
