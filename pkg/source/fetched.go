package source

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// fileTree shows one file as a tree: what was fetched. Without a file it is empty.
type fileTree struct{ file *layer.Item }

// Lstat implements layer.Tree.
func (t fileTree) Lstat(name string) (layer.Entry, error) {
	switch {
	case name == ".":
		return layer.Entry{Path: ".", Type: layer.Dir, Mode: 0o755, ModTime: time.Unix(0, 0)}, nil
	case t.file != nil && name == t.file.Path:
		return t.file.Entry, nil
	}
	return layer.Entry{}, notExist("lstat", name)
}

// ReadDir implements layer.Tree.
func (t fileTree) ReadDir(name string) iter.Seq2[layer.Entry, error] {
	e, err := t.Lstat(name)
	if err == nil && e.Type != layer.Dir {
		err = &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return layer.Unreadable(err)
	}
	return func(yield func(layer.Entry, error) bool) {
		if t.file != nil {
			yield(t.file.Entry, nil)
		}
	}
}

// Open implements layer.Tree.
func (t fileTree) Open(name string) (io.ReadCloser, error) {
	e, err := t.Lstat(name)
	if err != nil {
		return nil, notExist("open", name)
	}
	if e.Type != layer.File {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return t.file.Open()
}

// Digest implements layer.Tree.
func (t fileTree) Digest(ctx context.Context, name string) (digest.Digest, error) {
	if e, err := t.Lstat(name); err == nil && e.Sum != (layer.Sum{}) {
		return e.Sum.Digest(), nil
	}
	f, err := t.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digest.FromReader(layer.Until(ctx, f))
}

// LinkID implements layer.Tree.
func (t fileTree) LinkID(name string) (string, error) {
	_, err := t.Lstat(name)
	return "", err
}

var _ layer.Tree = fileTree{}
