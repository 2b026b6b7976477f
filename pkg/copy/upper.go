package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// upper is the stage with what has been written over it: the merged view that the file operations see, and in the end the
// difference. What it needs of memory does not depend on how many names are written.
type upper struct {
	lower layer.Tree // nil: nothing
	nodes table
	// removed are the names of lower that were taken away with all below them. Whatever is made there afterwards hides what lower has.
	removed table
	// links has for the hard links of archives, by node.link, the owner, mode and time that all names have.
	links  table
	joined int // how many files have got links so
	// origins is where the contents of nodes are; below is the number of lower among them, 0 while it has none.
	origins origins
	below   int
	// bare is a directory where nothing that was written hides what lower has in it.
	bare string
	// now is the time that directories of lower get when something is put into them, as in a file system.
	now time.Time
}

// newUpper is a stage over which nothing has been written. temp makes nameless files for what is not kept in memory.
func newUpper(lower layer.Tree, now time.Time, temp func() (*os.File, error)) *upper {
	of := func() table { return table{temp: temp} }
	return &upper{lower: lower, nodes: of(), removed: of(), links: of(), bare: ".", now: now}
}

// from returns the number of an origin of contents.
func (u *upper) from(o origin) int {
	u.origins = append(u.origins, o)
	return len(u.origins)
}

// stage returns the number of lower among the origins.
func (u *upper) stage() int {
	if u.below == 0 {
		u.below = u.from(treeOrigin{u.lower})
	}
	return u.below
}

// lstat returns what is at a path whose parents are no symlinks.
func (u *upper) lstat(name string) (layer.Entry, bool, error) {
	n, err := u.nodes.get(name)
	if err != nil {
		return layer.Entry{}, false, err
	}
	if n != nil {
		return n.Entry, true, nil
	}
	if name == "." {
		return layer.Entry{Path: ".", Type: layer.Dir, Mode: 0o755}, true, nil
	}
	if u.lower == nil {
		return layer.Entry{}, false, nil
	}
	gone, err := u.gone(name)
	if err == nil && !gone {
		gone, err = u.hides(path.Dir(name))
	}
	if err != nil || gone {
		return layer.Entry{}, false, err
	}
	return lookup(u.lower, name)
}

// gone reports whether what lower has at a path was taken away.
func (u *upper) gone(name string) (bool, error) {
	n, err := u.removed.get(name)
	return n != nil, err
}

// hides reports whether what lower has in a directory is covered by what was made there or above.
func (u *upper) hides(dir string) (bool, error) {
	for p := dir; p != "." && p != u.bare; p = path.Dir(p) {
		if gone, err := u.gone(p); gone || err != nil {
			return gone, err
		}
		n, err := u.nodes.get(p)
		if err != nil {
			return false, err
		}
		if n != nil && n.Type != layer.Dir {
			return true, nil
		}
	}
	u.bare = dir
	return false, nil
}

func lookup(t layer.Tree, name string) (layer.Entry, bool, error) {
	e, err := t.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return layer.Entry{}, false, nil
	case err != nil:
		return layer.Entry{}, false, fmt.Errorf("looking up %q in the stage: %w", "/"+name, err)
	}
	return e, true, nil
}

// resolve follows the symlinks of a path inside the root. What does not exist stays as it is.
func (u *upper) resolve(name string) (string, error) {
	p, err := layer.Resolve(view{u, "."}, name)
	if err != nil {
		return "", fmt.Errorf("resolving %q in the stage: %w", "/"+name, err)
	}
	return p, nil
}

func (u *upper) put(n *node) error {
	if n.Type != layer.Dir {
		u.cover(n.Path)
	}
	return u.nodes.put(n)
}

// cover takes note that something at a path may hide what lower has below it.
func (u *upper) cover(name string) {
	if name == u.bare || below(name, u.bare) {
		u.bare = "."
	}
}

// remove takes a path away with all below it.
func (u *upper) remove(name string) error {
	u.cover(name)
	if u.lower == nil {
		return u.nodes.remove(name, false)
	}
	e, ok, err := lookup(u.lower, name)
	if err != nil {
		return err
	}
	// Above what was written there are directories: those that were written too, and those of lower.
	if err := u.nodes.remove(name, e.Type == layer.Dir); err != nil || !ok {
		return err
	}
	return u.removed.put(&node{Entry: layer.Entry{Path: name, Type: e.Type}})
}

// view shows a directory of an upper as a Tree for layer.Resolve, which only looks at entries.
type view struct {
	u   *upper
	dir string
}

func (v view) Lstat(name string) (layer.Entry, error) {
	e, ok, err := v.u.lstat(path.Join(v.dir, name))
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	return e, err
}

var errView = errors.New("copy: not shown")

func (view) ReadDir(string) iter.Seq2[layer.Entry, error]          { return layer.Unreadable(errView) }
func (view) Open(string) (io.ReadCloser, error)                    { return nil, errView }
func (view) Digest(context.Context, string) (digest.Digest, error) { return "", errView }
func (view) LinkID(string) (string, error)                         { return "", nil }
