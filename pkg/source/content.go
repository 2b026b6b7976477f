package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Open implements layer.Tree. The content read is that of the file as it was first seen, or reading fails.
func (t *dirTree) Open(name string) (io.ReadCloser, error) {
	n, f, err := t.openFile(name)
	if err != nil {
		return nil, err
	}
	if n.socket {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return f, nil
}

// openFile opens a regular file; a socket, which is an empty one, has nothing to open.
func (t *dirTree) openFile(name string) (node, *checkedFile, error) {
	t.mu.Lock()
	n, err := t.lookup(name)
	var ok bool
	if err == nil {
		ok, err = t.visible(&n)
	}
	t.mu.Unlock()
	if err != nil {
		return node{}, nil, err
	}
	if !ok {
		return node{}, nil, notExist("open", name)
	}
	if n.kind != layer.File {
		return node{}, nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if n.socket {
		return n, nil, nil
	}
	// Without O_NONBLOCK a FIFO that took the file's place would hang the build.
	fd, err := openBeneath(int(t.root.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NOCTTY)
	if err != nil {
		return node{}, nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	c := &checkedFile{fd: fd, name: name, want: n.stat}
	if err := c.check(); err != nil {
		_ = c.Close()
		return node{}, nil, err
	}
	return n, c, nil
}

// Digest implements layer.Tree.
func (t *dirTree) Digest(ctx context.Context, name string) (digest.Digest, error) {
	t.mu.Lock()
	n, err := t.lookup(name)
	t.mu.Unlock()
	if err != nil {
		return "", err
	}
	if n.sum != (layer.Sum{}) {
		return n.sum.Digest(), nil
	}
	if t.digests != nil && n.kind == layer.File {
		if sum, ok := t.digests.Digest(name, n.info()); ok {
			return sum.Digest(), t.remember(name, sum)
		}
	}
	_, f, err := t.openFile(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	buf := t.buffers.get()
	defer t.buffers.put(buf)
	if err := f.copyTo(ctx, h, *buf); err != nil {
		return "", err
	}
	sum := layer.Sum(h.Sum(nil))
	return sum.Digest(), t.remember(name, sum)
}

// remember keeps the sum of a file that was looked up, and may have been listed since.
func (t *dirTree) remember(name string, sum layer.Sum) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.early[name]; ok {
		n.sum = sum
		return nil
	}
	d := t.dirs[path.Dir(name)]
	if d == nil {
		return notExist("lstat", name)
	}
	b, i, ok, err := t.nodes.find(d, path.Base(name))
	if err != nil {
		return err
	}
	if !ok {
		return notExist("lstat", name)
	}
	b.setSum(i, sum)
	return nil
}

// digested calls visit with the files whose sums are known, as Digests has it.
func (t *dirTree) digested(visit func(dir string, fi fs.FileInfo, sum layer.Sum) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	// What was seen alone of directories that were never listed is little.
	alone := map[string][]*node{}
	for name, n := range t.early {
		dir := path.Dir(name)
		alone[dir] = append(alone[dir], n)
	}
	for _, name := range slices.Sorted(maps.Keys(t.dirs)) {
		one := func(n *node) error {
			if n.kind != layer.File || n.socket || n.sum == (layer.Sum{}) {
				return nil
			}
			return visit(name, n.info(), n.sum)
		}
		d := t.dirs[name]
		if d.listed {
			if err := t.children(d, func(n node) (bool, error) { return true, one(&n) }); err != nil {
				return err
			}
			continue
		}
		slices.SortFunc(alone[name], func(a, b *node) int { return strings.Compare(a.path, b.path) })
		for _, n := range alone[name] {
			if err := one(n); err != nil {
				return err
			}
		}
	}
	return nil
}
