package layer

import (
	"context"
	"io"
	"iter"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Lazy returns a tree that make makes when it is first asked for something. make is called once; its error is that of every method.
func Lazy(make func() (Tree, error)) Tree { return lazyTree(sync.OnceValues(make)) }

type lazyTree func() (Tree, error)

func (t lazyTree) Lstat(name string) (Entry, error) {
	tree, err := t()
	if err != nil {
		return Entry{}, err
	}
	return tree.Lstat(name)
}

func (t lazyTree) ReadDir(name string) iter.Seq2[Entry, error] {
	tree, err := t()
	if err != nil {
		return Unreadable(err)
	}
	return tree.ReadDir(name)
}

// Unreadable is what Tree.ReadDir returns of a directory that cannot be read.
func Unreadable(err error) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) { yield(Entry{}, err) }
}

// Names returns the names in a directory of a tree, without the directory's own, sorted.
func Names(t Tree, dir string) (names []string, err error) {
	for e, err := range t.ReadDir(dir) {
		if err != nil {
			return nil, err
		}
		names = append(names, baseOf(e.Path))
	}
	return names, nil
}

func (t lazyTree) Open(name string) (io.ReadCloser, error) {
	tree, err := t()
	if err != nil {
		return nil, err
	}
	return tree.Open(name)
}

func (t lazyTree) Digest(ctx context.Context, name string) (digest.Digest, error) {
	tree, err := t()
	if err != nil {
		return "", err
	}
	return tree.Digest(ctx, name)
}

func (t lazyTree) LinkID(name string) (string, error) {
	tree, err := t()
	if err != nil {
		return "", err
	}
	return tree.LinkID(name)
}
