package source

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/cairn-build/cairn/pkg/copy"
	"github.com/cairn-build/cairn/pkg/spill"
)

// headSize is how much of a stream is looked at to know what it is: a tar header is 512 bytes, after a PAX header of its own.
const headSize = 4096

// looksLikeArchive reports whether data begins as a compressed stream or a tar archive does. A Dockerfile begins with none of
// these.
func looksLikeArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

// OpenTar reads a tar archive, in any compression, as a context. Its files keep the owners of the archive and no ignore file
// applies, both as in BuildKit. Their content lies in one file without a name until the context is closed; no path of the
// archive is ever made on disk.
func OpenTar(ctx context.Context, r io.Reader, o ContextOptions) (*Context, error) {
	if o.Limits.Temp == nil {
		o.Limits.Temp = o.tempFile
	}
	res, err := copy.Unpack(ctx, r, o.Limits)
	if err != nil {
		return nil, err
	}
	newest, err := res.Newest()
	if err != nil {
		return nil, errors.Join(err, res.Close())
	}
	return &Context{Tree: res.Tree(), Time: newest, close: []func() error{res.Close}}, nil
}

// tempFile makes a file without a name.
func (o ContextOptions) tempFile() (*os.File, error) {
	if o.Store != nil {
		if f, err := o.Store.TempFile(); err == nil {
			return f, nil
		}
	}
	return spill.SystemTemp()
}

// tempDir makes a directory and the function that removes it.
func (o ContextOptions) tempDir(pattern string) (dir string, remove func() error, err error) {
	if o.TempDir != nil {
		dir, err = o.TempDir(pattern)
	} else {
		dir, err = os.MkdirTemp("", pattern)
	}
	if err != nil {
		return "", nil, err
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}
