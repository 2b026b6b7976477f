package copy

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// Tree shows the content of an archive that Unpack has read, until Close.
func (r *Result) Tree() layer.Tree { return unpacked{r} }

// Newest is the latest time of a regular file, in UTC; zero if there is none.
func (r *Result) Newest() (latest time.Time, err error) {
	err = r.nodes.each(func(n *node) error {
		if n.Type == layer.File && n.ModTime.After(latest) {
			latest = n.ModTime.UTC()
		}
		return nil
	})
	return latest, err
}

// unpacked is a result of Unpack as a tree. The result has the directories above each name, but for the root.
type unpacked struct{ *Result }

// node returns what is at a name: of a hard link the file it names, and the group of links either way.
func (u unpacked) node(op, name string) (n *node, link string, err error) {
	if name == "." {
		return &node{Entry: layer.Entry{Path: ".", Type: layer.Dir, Mode: 0o755, ModTime: time.Unix(0, 0)}}, "", nil
	}
	i, ok, err := u.nodes.find(name)
	if err == nil && ok {
		n, err = u.nodes.at(i)
	}
	switch {
	case err != nil:
		return nil, "", err
	case !ok:
		return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	case n.Type != layer.Hardlink:
		return n, n.link, nil
	}
	link = n.link
	n, _, err = u.node(op, n.Linkname)
	return n, link, err
}

func (u unpacked) file(op, name string) (*node, error) {
	n, _, err := u.node(op, name)
	if err == nil && n.Type != layer.File {
		err = &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return n, err
}

// Lstat implements layer.Tree.
func (u unpacked) Lstat(name string) (layer.Entry, error) {
	n, _, err := u.node("lstat", name)
	if err != nil {
		return layer.Entry{}, err
	}
	e := n.Entry
	e.Path = name
	return e, nil
}

// ReadDir implements layer.Tree.
func (u unpacked) ReadDir(name string) iter.Seq2[layer.Entry, error] {
	n, _, err := u.node("readdir", name)
	if err == nil && n.Type != layer.Dir {
		err = &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return layer.Unreadable(err)
	}
	return func(yield func(layer.Entry, error) bool) {
		for i := 0; ; {
			e, after, more, err := u.next(name, i)
			if err != nil {
				yield(e, err)
				return
			}
			if !more || !yield(e, nil) {
				return
			}
			i = after
		}
	}
}

// next returns the entry of a directory that is at a place or behind it, and the place behind that; more is false where there is none.
func (u unpacked) next(dir string, i int) (e layer.Entry, after int, more bool, err error) {
	if i == 0 && dir != "." {
		if i, _, err = u.nodes.find(dir); err != nil {
			return e, i, false, err
		}
		i++
	}
	if i == u.nodes.len() {
		return e, i, false, nil
	}
	n, err := u.nodes.at(i)
	if err != nil || !below(dir, n.Path) {
		return e, i, false, err
	}
	i++
	if e = n.Entry; e.Type == layer.Hardlink {
		e, err = u.Lstat(n.Path)
	}
	if err == nil && n.Type == layer.Dir {
		// A separator comes before every byte: here ends what is in it.
		i, _, err = u.nodes.find(n.Path + "\x01")
	}
	return e, i, err == nil, err
}

// Open implements layer.Tree.
func (u unpacked) Open(name string) (io.ReadCloser, error) {
	n, err := u.file("open", name)
	if err != nil {
		return nil, err
	}
	return u.origins.of(n).open(n)
}

// Digest implements layer.Tree.
func (u unpacked) Digest(ctx context.Context, name string) (digest.Digest, error) {
	n, err := u.file("digest", name)
	if err != nil {
		return "", err
	}
	if n.Sum != (layer.Sum{}) {
		return n.Sum.Digest(), nil
	}
	return u.origins.of(n).digest(ctx, n)
}

// LinkID implements layer.Tree.
func (u unpacked) LinkID(name string) (string, error) {
	_, link, err := u.node("lstat", name)
	return link, err
}

var _ layer.Tree = unpacked{}
