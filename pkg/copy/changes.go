package copy

import (
	"context"
	"fmt"
	"path"

	"github.com/cairn-build/cairn/pkg/layer"
)

// difference is the making of a layer of what was written.
type difference struct {
	*upper
	// same are the nodes that lower has too, by their place.
	same bits
	// touched are the directories of lower, no nodes themselves, in which names were made or replaced.
	touched map[string]bool
	trail   trail
	// first has the name of the first file of each group of hard links.
	first table
	out   nodes
}

// changes returns what differs from lower and the directories that lead there, sorted as in a layer.
func (u *upper) changes(ctx context.Context) (nodes, error) {
	d := &difference{upper: u, touched: map[string]bool{}, first: table{temp: u.nodes.temp, most: u.nodes.most}}
	if len(u.nodes.runs) > 0 {
		d.out.many = &run{List: layer.NewList(u.nodes.temp)}
	}
	if u.lower != nil {
		if err := d.each(ctx, d.compare); err != nil {
			return nodes{}, err
		}
	}
	d.trail = nil
	return d.out, d.each(ctx, d.add)
}

// each calls fn for all that was written, in order, with the place in it.
func (d *difference) each(ctx context.Context, fn func(ctx context.Context, i int, n *node) error) error {
	i := 0
	for n, err := range d.nodes.all() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = d.finish(n)
		}
		if err == nil {
			err = fn(ctx, i, n)
		}
		if err != nil {
			return err
		}
		i++
	}
	return nil
}

// finish sets what is known only now that all is written.
func (u *upper) finish(n *node) error {
	if n.link != "" {
		// One file has one owner, mode and time: those of the entry of an archive read last.
		l, err := u.links.get(n.link)
		if err != nil {
			return err
		}
		if l != nil {
			n.UID, n.GID = l.UID, l.GID
			if n.Type == layer.File {
				n.Mode, n.ModTime = l.Mode, l.ModTime
			}
		}
	}
	if n.Type != layer.Dir || u.lower == nil {
		return nil
	}
	gone, err := u.gone(n.Path)
	if err != nil || !gone {
		return err
	}
	below, ok, err := lookup(u.lower, n.Path)
	n.Opaque = ok && below.Type == layer.Dir
	return err
}

// compare notes whether lower has exactly this, and whether a directory was touched.
func (d *difference) compare(ctx context.Context, i int, n *node) error {
	same, err := d.unchanged(ctx, n)
	if err != nil {
		return err
	}
	d.same.add(i, same)
	parent := d.trail.to(n)
	if parent == nil || parent.node != nil {
		return nil
	}
	if n.Type == layer.Dir {
		e, ok, err := lookup(d.lower, n.Path)
		if err != nil || ok && e.Type == layer.Dir {
			return err
		}
	}
	d.touched[parent.path] = true
	return nil
}

// unchanged reports whether lower has exactly this. Times of directories do not count, nor fractions of a second, which layers do
// not keep (BuildKit leaves unchanged entries out of a layer by the same comparison, util/overlay).
func (u *upper) unchanged(ctx context.Context, n *node) (bool, error) {
	gone, err := u.gone(n.Path)
	if err == nil && !gone {
		gone, err = u.hides(path.Dir(n.Path))
	}
	if gone || err != nil {
		return false, err
	}
	e, ok, err := lookup(u.lower, n.Path)
	if err != nil || !ok {
		return false, err
	}
	if e.Type != n.Type || e.Mode != n.Mode || e.UID != n.UID || e.GID != n.GID || e.Devmajor != n.Devmajor || e.Devminor != n.Devminor ||
		e.Xattrs[capabilityXattr] != n.Xattrs[capabilityXattr] {
		return false, nil
	}
	if n.Type == layer.Dir {
		return true, nil
	}
	if e.Size != n.Size || e.Linkname != n.Linkname || e.ModTime.Unix() != n.ModTime.Unix() {
		return false, nil
	}
	if n.Type != layer.File || n.Size == 0 {
		return true, nil
	}
	return u.sameContent(ctx, n)
}

func (u *upper) sameContent(ctx context.Context, n *node) (bool, error) {
	mine, err := u.origins.of(n).digest(ctx, n)
	if err != nil {
		return false, fmt.Errorf("reading the source of %q: %w", "/"+n.Path, err)
	}
	below, err := u.lower.Digest(ctx, n.Path)
	if err != nil {
		return false, fmt.Errorf("reading %q of the stage: %w", "/"+n.Path, err)
	}
	return mine == below, nil
}

// add puts what lower has not into the layer, after the directories above that are not there yet: as they were written, else as lower has them.
func (d *difference) add(_ context.Context, i int, n *node) error {
	d.trail.to(n)
	if d.same.has(i) {
		return nil
	}
	top := len(d.trail) - 1
	for i := range d.trail[:top] {
		dir := &d.trail[i]
		if dir.done {
			continue
		}
		dir.done = true
		if dir.node == nil {
			var err error
			if dir.node, err = d.lowerDir(dir.path, n.Path); err != nil {
				return err
			}
		}
		if err := d.out.add(dir.node); err != nil {
			return err
		}
	}
	d.trail[top].done = true
	if err := d.join(n); err != nil {
		return err
	}
	return d.out.add(n)
}

// lowerDir is a directory of lower as it is in the layer, above name.
func (d *difference) lowerDir(dir, name string) (*node, error) {
	e, ok, err := d.lstat(dir)
	if err != nil {
		return nil, err
	}
	if !ok || e.Type != layer.Dir {
		return nil, fmt.Errorf("copying to %q: %q is no directory", "/"+name, "/"+dir)
	}
	e.Path, e.Opaque, e.Xattrs = dir, false, keptXattrs(e.Xattrs)
	if d.touched[dir] {
		e.ModTime = d.now
	}
	return &node{Entry: e}, nil
}

// join makes a file a hard link of the first file that it is one with.
func (d *difference) join(n *node) error {
	if n.link == "" || n.Type != layer.File {
		return nil
	}
	f, err := d.first.get(n.link)
	if err != nil {
		return err
	}
	if f == nil {
		return d.first.put(&node{Entry: layer.Entry{Path: n.link, Type: layer.Symlink, Linkname: n.Path}})
	}
	n.Type, n.Linkname, n.Size, n.Sum = layer.Hardlink, f.Linkname, 0, layer.Sum{}
	return nil
}

// trail is the way down to a node: what is above it, and the node.
type trail []step

// step is a directory; one that was not written has no node.
type step struct {
	path string
	node *node
	done bool // it is in the layer
}

// to goes on to the next node and returns what it is in, nil for the root.
func (t *trail) to(n *node) *step {
	s := *t
	for len(s) > 0 && !below(s[len(s)-1].path, n.Path) {
		s = s[:len(s)-1]
	}
	from := 0
	if len(s) > 0 {
		from = len(s[len(s)-1].path) + 1
	}
	for i := from; i < len(n.Path); i++ {
		if n.Path[i] == '/' {
			s = append(s, step{path: n.Path[:i]})
		}
	}
	s = append(s, step{path: n.Path, node: n})
	*t = s
	if len(s) == 1 {
		return nil
	}
	return &s[len(s)-2]
}

// bits are a set of numbers.
type bits []uint64

// add adds i if on; numbers come one after the other.
func (b *bits) add(i int, on bool) {
	if i%64 == 0 {
		*b = append(*b, 0)
	}
	if on {
		(*b)[i/64] |= 1 << (i % 64)
	}
}

func (b bits) has(i int) bool { return i/64 < len(b) && b[i/64]&(1<<(i%64)) != 0 }
