package source

import (
	"cmp"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/spill"
	"golang.org/x/sys/unix"
)

// Digests remembers the digests of the files below one directory across builds, by name and stat. It is safe for concurrent use;
// *cache.Files is one.
type Digests interface {
	// Digest returns the sum of the file at path, if one is remembered for exactly this stat, which was taken before the file is read.
	Digest(path string, fi fs.FileInfo) (layer.Sum, bool)
	// Save is called once, when the directory is closed. seen calls visit with each file that Digest was asked for and whose sum is known by now,
	// sorted by directory ("." is the root) and then by name, both as bytes. fi is the same stat, and good until visit returns. seen ends with the
	// first error of visit, or with its own.
	Save(seen func(visit func(dir string, fi fs.FileInfo, sum layer.Sum) error) error) error
}

// dirTree shows a directory as a tree. Every name is opened from the directory's descriptor without following a symlink, so
// nothing outside can be reached whatever the directory contains or becomes. What has been seen once stays as it was: a file
// that changes afterwards is an error when it is read.
type dirTree struct {
	path    string // absolute
	root    *os.File
	ignore  *Ignore
	digests Digests
	buffers buffers
	// normal gives files and directories the modes of a git checkout, 0644 and 0755; mtime, where it is set, replaces the time
	// of everything.
	normal bool
	mtime  time.Time

	// temp makes the file in which nodes are when they are many; nil makes it where the system wants.
	temp func() (*os.File, error)

	mu sync.Mutex
	// dirs are the directories that have been seen, by name; nodes are what is in those that are listed, and early what else has been seen, by name, of
	// those that are not.
	dirs  map[string]*directory
	nodes nodes
	early map[string]*node
}

// newDirTree is the tree of a directory; temp is as in dirTree.
func newDirTree(dir string, temp func() (*os.File, error)) (*dirTree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(abs, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return dirTreeOf(abs, f, temp)
}

// dirTreeOf is the tree of an open directory, which it takes over.
func dirTreeOf(abs string, f *os.File, temp func() (*os.File, error)) (*dirTree, error) {
	t := &dirTree{path: abs, root: f, temp: temp}
	if err := t.reset(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return t, nil
}

// reset forgets what has been seen.
func (t *dirTree) reset() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(t.root.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: t.path, Err: err}
	}
	n := nodeOf(&st, "")
	n.verdict = none
	t.dirs = map[string]*directory{".": {path: ".", meta: n.meta}}
	t.nodes = nodes{bytes: spill.Bytes{Temp: t.temp}}
	t.early = map[string]*node{}
	return nil
}

// Close saves the digests and closes the directory.
func (t *dirTree) Close() error {
	var err error
	if t.digests != nil {
		err = t.digests.Save(t.digested)
	}
	return errors.Join(err, t.root.Close())
}

// open opens a name below the root; no component may be a symlink.
func (t *dirTree) open(name string, flags int) (*os.File, error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NOCTTY // with O_PATH openat2 refuses it
	}
	fd, err := openBeneath(int(t.root.Fd()), name, flags)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Lstat implements layer.Tree.
func (t *dirTree) Lstat(name string) (layer.Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.lookup(name)
	if err != nil {
		return layer.Entry{}, err
	}
	if ok, err := t.visible(&n); err != nil || !ok {
		return layer.Entry{}, cmp.Or(err, notExist("lstat", name))
	}
	return t.entry(&n), nil
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// lookup returns the node of a name, ignored or not.
func (t *dirTree) lookup(name string) (node, error) {
	if d, ok := t.dirs[name]; ok {
		return d.node(), nil
	}
	if n, ok := t.early[name]; ok {
		return *n, nil
	}
	if !fs.ValidPath(name) {
		return node{}, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrInvalid}
	}
	parent, err := t.lookup(path.Dir(name))
	if err != nil {
		return node{}, err
	}
	if parent.dir == nil {
		return node{}, notExist("lstat", name)
	}
	if parent.dir.listed {
		b, i, ok, err := t.nodes.find(parent.dir, path.Base(name))
		if err != nil {
			return node{}, err
		}
		if !ok {
			return node{}, notExist("lstat", name)
		}
		n := b.node(i)
		n.path = name
		return n, nil
	}
	return t.lookupEarly(parent.dir, name)
}

// lookupEarly sees a name in a directory that is not listed.
func (t *dirTree) lookupEarly(parent *directory, name string) (node, error) {
	d, err := t.open(parent.path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return node{}, err
	}
	defer d.Close()
	n, err := t.stat(d, parent, path.Base(name))
	if err != nil {
		return node{}, err
	}
	n.path = strings.Clone(name)
	if n.dir == nil {
		t.early[n.path] = &n
	}
	return n, nil
}

// ReadDir implements layer.Tree.
func (t *dirTree) ReadDir(name string) iter.Seq2[layer.Entry, error] {
	d, err := t.listed(name)
	if err != nil {
		return layer.Unreadable(err)
	}
	return func(yield func(layer.Entry, error) bool) {
		for _, s := range d.spans {
			entries, err := t.entries(d, s)
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			if err != nil {
				yield(layer.Entry{}, err)
				return
			}
		}
	}
}

// listed returns a directory once it has been listed.
func (t *dirTree) listed(name string) (*directory, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.lookup(name)
	if err != nil {
		return nil, err
	}
	if n.dir == nil {
		return nil, &fs.PathError{Op: "readdir", Path: n.path, Err: syscall.ENOTDIR}
	}
	return n.dir, t.list(n.dir)
}

// entries are the visible ones of a span.
func (t *dirTree) entries(d *directory, s span) (entries []layer.Entry, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	err = t.inSpan(d, s, func(c node) (bool, error) {
		ok, err := t.visible(&c)
		if ok {
			entries = append(entries, t.entry(&c))
		}
		return true, err
	})
	return entries, err
}

// children calls visit with what is in a listed directory, until it returns false or an error.
func (t *dirTree) children(d *directory, visit func(node) (more bool, err error)) error {
	for _, s := range d.spans {
		more := true
		err := t.inSpan(d, s, func(n node) (_ bool, err error) {
			more, err = visit(n)
			return more, err
		})
		if !more || err != nil {
			return err
		}
	}
	return nil
}

// inSpan is children for a part of them.
func (t *dirTree) inSpan(d *directory, s span, visit func(node) (more bool, err error)) error {
	b, err := t.nodes.block(s)
	if err != nil {
		return err
	}
	for i := range b.n {
		n := b.node(i)
		n.path = d.child(string(b.name(i)))
		if n.kind == layer.Dir {
			n.dir = t.dirs[n.path]
		}
		if more, err := visit(n); !more || err != nil {
			return err
		}
	}
	return nil
}

// list sees all that is in a directory.
func (t *dirTree) list(dir *directory) error {
	if dir.listed {
		return nil
	}
	d, err := t.open(dir.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	w := spanWriter{nodes: &t.nodes}
	for _, base := range names {
		n, err := t.see(d, dir, base)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		if err := w.add(base, &n); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	for name := range t.early {
		if path.Dir(name) == dir.path {
			if _, listed := slices.BinarySearch(names, path.Base(name)); listed {
				delete(t.early, name)
			}
		}
	}
	dir.spans, dir.listed = w.spans, true
	return nil
}

// visible reports whether a node is not ignored, or leads to something that is not.
func (t *dirTree) visible(n *node) (bool, error) {
	if t.ignore == nil || !t.ignore.ignores(int(n.verdict)) {
		return true, nil
	}
	d := n.dir
	if d == nil || !t.ignore.hasExcept {
		return false, nil
	}
	if d.shown == 0 {
		ok, err := t.leads(d)
		if err != nil {
			return false, err
		}
		if d.shown = -1; ok {
			d.shown = 1
		}
	}
	return d.shown > 0, nil
}

// leads reports whether something in an ignored directory is visible.
func (t *dirTree) leads(d *directory) (found bool, err error) {
	if !t.ignore.mayInclude(d.path) {
		return false, nil
	}
	if err := t.list(d); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return false, nil // it was to be ignored
		}
		return false, err
	}
	err = t.children(d, func(c node) (bool, error) {
		found, err = t.visible(&c)
		return !found, err
	})
	return found, err
}

// Ignored reports whether the ignore file hides a name that is there.
func (t *dirTree) Ignored(name string) (by string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ignore == nil {
		return "", false
	}
	n, err := t.lookup(name)
	if err != nil || !t.ignore.ignores(int(n.verdict)) {
		return "", false
	}
	return t.ignore.name, true
}

// LinkID implements layer.Tree.
func (t *dirTree) LinkID(name string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.lookup(name)
	if err != nil {
		return "", err
	}
	if n.kind != layer.File || !n.linked {
		return "", nil
	}
	return strconv.FormatUint(n.stat.dev, 36) + ":" + strconv.FormatUint(n.stat.ino, 36), nil
}

var _ layer.Tree = (*dirTree)(nil)
