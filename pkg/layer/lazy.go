package layer

import (
	"context"
	"io"
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

func (t lazyTree) ReadDir(name string) ([]Entry, error) {
	tree, err := t()
	if err != nil {
		return nil, err
	}
	return tree.ReadDir(name)
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
