package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/attack"
	"golang.org/x/sys/unix"
)

// FuzzDecompress: any bytes are decompressed, refused, or what they are; never more memory than a dictionary may have, and to an end.
func FuzzDecompress(f *testing.F) {
	data := gzipCorpus()[:4096]
	for _, kind := range []string{"gzip", "zstd", "uncompressed"} {
		f.Add(write(f, Compression{Type: kind}, file("f", string(data))).blob)
	}
	for _, s := range []string{"", "x", "\x1f\x8b\x08", "BZh9", "BZh91AY&SY", "\xfd7zXZ\x00", "\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x28", "\x28\xb5\x2f\xfd", "\x28\xb5\x2f\xfd\x04\xff",
		"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", "\x50\x2a\x4d\x18\xff\xff\xff\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		r, kind, err := Decompress(bytes.NewReader(blob))
		if err != nil {
			return
		}
		defer r.Close()
		out, err := io.ReadAll(io.LimitReader(r, 64<<20))
		if kind == noneType && (err != nil || !bytes.Equal(out, blob)) {
			t.Errorf("%d bytes came out of %d, %v", len(out), len(blob), err)
		}
	})
}

// FuzzDiff: what changes a directory, a layer says, and what the layer says makes the same directory again.
func FuzzDiff(f *testing.F) {
	for _, s := range []string{"", "d0d1f2", "f0l10s20p3", "d0D1f4m4x4", "f0w1o2d2", "d0f3h33h43t3", "f3f3d0c3", "s0s1s2s3h01", "\xff\xfe\xfd", "d0d1d2d4D0m0c0x0t0", "c0D\xb1f4mLx4"} {
		f.Add([]byte(s))
	}
	names := []string{"a", "b", "a/c", "a/b/d", "e", "caf\xe9", "new\nline"}
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 200 {
			return
		}
		dir := attack.Dir(t)
		for len(ops) >= 2 {
			name := filepath.Join(dir, names[int(ops[1])%len(names)])
			alter(ops[0], name, dir)
			ops = ops[2:]
		}
		var b bytes.Buffer
		w, err := NewWriter(&b, Compression{})
		must(t, err)
		if err := Diff(context.Background(), dir, nil, w); err != nil {
			t.Fatalf("what is on a disk is not made a layer: %v", err)
		}
		l := closed(t, w, &b)
		again := attack.Dir(t)
		ix, err := Unpack(context.Background(), bytes.NewReader(l.blob), l.Layer, again, nil, Limits{})
		must(t, err)
		if got, want := string(marshal(ix)), string(marshal(l.ix)); got != want {
			t.Errorf("the index read differs from the index written")
		}
		_, want, _ := strings.Cut(show(t, openDir(t, dir), true), "\n")
		_, got, _ := strings.Cut(show(t, openDir(t, again), true), "\n")
		if got != want {
			t.Errorf("made (-) and unpacked (+):\n%s", diff(want, got))
		}
	})
}

// overwrite is os.WriteFile that does not wait for a reader where name is a pipe.
func overwrite(name, content string, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// remove is os.RemoveAll that does not wait for a writer where a parent of name is a pipe.
func remove(name string) error {
	if fi, err := os.Stat(filepath.Dir(name)); err != nil || !fi.IsDir() {
		return err
	}
	return os.RemoveAll(name)
}

// alter does one thing to a file; what cannot be done is not.
func alter(op byte, name, dir string) {
	then := []unix.Timespec{{Sec: int64(op)}, {Sec: int64(op) * 1000}}
	_ = [...]func() error{
		func() error { return os.Mkdir(name, 0o755) },
		func() error { return overwrite(name, fmt.Sprint(op), 0o640) },
		func() error { return os.Symlink("../"+filepath.Base(name), name) },
		func() error { return unix.Mkfifo(name, 0o600) },
		func() error { return os.Link(filepath.Join(dir, "b"), name) },
		func() error { return os.Chmod(name, os.FileMode(op)<<2|0o100|os.ModeSetuid) },
		func() error { return os.Lchown(name, int(op), 7) },
		func() error { return unix.Lsetxattr(name, "user.x", []byte{op, 0}, 0) },
		func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, name, then, unix.AT_SYMLINK_NOFOLLOW) },
		func() error { return remove(name) },
		func() error { return unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(1, uint32(op)))) },
		func() error { return errors.Join(overwrite(name, "", 0o644), os.Truncate(name, int64(op)<<8)) },
	}[int(op)%12]()
}
