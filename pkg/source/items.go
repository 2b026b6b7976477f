package source

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// itemTree shows items as a tree: what an archive contains, or one file that was fetched.
type itemTree struct {
	items    map[string]layer.Item
	children map[string][]string // by directory, sorted

	mu      sync.Mutex
	digests map[string]digest.Digest // by the name of the file itself
}

// newItemTree makes a tree of items that contain the directories above each of them, but for the root.
func newItemTree(items []layer.Item) *itemTree {
	t := &itemTree{items: map[string]layer.Item{}, children: map[string][]string{}, digests: map[string]digest.Digest{}}
	t.items["."] = layer.Item{Entry: layer.Entry{Path: ".", Type: layer.Dir, Mode: 0o755, ModTime: time.Unix(0, 0)}}
	for _, it := range items {
		t.items[it.Path] = it
		t.children[path.Dir(it.Path)] = append(t.children[path.Dir(it.Path)], it.Path)
	}
	for _, c := range t.children {
		slices.Sort(c)
	}
	return t
}

// file returns the item that a name stands for: of a hard link, the file it names.
func (t *itemTree) file(name string) (layer.Item, bool) {
	it, ok := t.items[name]
	if ok && it.Type == layer.Hardlink {
		it, ok = t.items[it.Linkname]
	}
	return it, ok
}

// Lstat implements layer.Tree.
func (t *itemTree) Lstat(name string) (layer.Entry, error) {
	it, ok := t.file(name)
	if !ok {
		return layer.Entry{}, notExist("lstat", name)
	}
	e := it.Entry
	e.Path = name
	return e, nil
}

// ReadDir implements layer.Tree.
func (t *itemTree) ReadDir(name string) iter.Seq2[layer.Entry, error] {
	e, err := t.Lstat(name)
	if err == nil && e.Type != layer.Dir {
		err = &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return layer.Unreadable(err)
	}
	return func(yield func(layer.Entry, error) bool) {
		for _, c := range t.children[name] {
			if e, err := t.Lstat(c); !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Open implements layer.Tree.
func (t *itemTree) Open(name string) (io.ReadCloser, error) {
	it, ok := t.file(name)
	if !ok {
		return nil, notExist("open", name)
	}
	if it.Type != layer.File {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if it.Open == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return it.Open()
}

// Digest implements layer.Tree.
func (t *itemTree) Digest(ctx context.Context, name string) (digest.Digest, error) {
	it, ok := t.file(name)
	if ok && it.Sum != (layer.Sum{}) {
		return it.Sum.Digest(), nil
	}
	t.mu.Lock()
	d := t.digests[it.Path]
	t.mu.Unlock()
	if d != "" {
		return d, nil
	}
	f, err := t.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if d, err = digest.FromReader(layer.Until(ctx, f)); err != nil {
		return "", err
	}
	t.mu.Lock()
	t.digests[it.Path] = d
	t.mu.Unlock()
	return d, nil
}

// LinkID implements layer.Tree.
func (t *itemTree) LinkID(name string) (string, error) {
	it, ok := t.items[name]
	switch {
	case !ok:
		return "", notExist("lstat", name)
	case it.Type == layer.Hardlink:
		return it.Linkname, nil
	case it.Type == layer.File:
		return it.Path, nil // equal to what its links say
	}
	return "", nil
}

var _ layer.Tree = (*itemTree)(nil)
