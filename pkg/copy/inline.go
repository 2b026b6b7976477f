package copy

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"iter"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// inline is the tree of one file whose content is in the Dockerfile: mode 0644, owned by root, without a time.
type inline struct {
	name string
	data []byte
}

func (t inline) Lstat(name string) (layer.Entry, error) {
	switch name {
	case ".":
		return layer.Entry{Path: ".", Type: layer.Dir, Mode: 0o755}, nil
	case t.name:
		return layer.Entry{Path: name, Type: layer.File, Mode: 0o644, Size: int64(len(t.data))}, nil
	}
	return layer.Entry{}, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
}

func (t inline) ReadDir(name string) iter.Seq2[layer.Entry, error] {
	return func(yield func(layer.Entry, error) bool) { yield(t.Lstat(t.name)) }
}

func (t inline) Open(name string) (io.ReadCloser, error) {
	if _, err := t.Lstat(name); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(t.data)), nil
}

func (t inline) Digest(ctx context.Context, name string) (digest.Digest, error) {
	if _, err := t.Lstat(name); err != nil {
		return "", err
	}
	return digest.FromBytes(t.data), nil
}

func (t inline) LinkID(string) (string, error) { return "", nil }
