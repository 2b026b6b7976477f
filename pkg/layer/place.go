package layer

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// unpacker puts the nodes of a layer on disk as they come, and what depends on the whole layer (whiteouts, the modes and times of
// directories) at the end.
type unpacker struct {
	reader *reader
	disk   *disk
	lower  Tree
	// made are the directories that were made without an entry of their own, by their place on disk.
	made map[string]bool
	// moved are the directories that lie elsewhere than their path says.
	moved []*node
	// away are the entries that lie elsewhere than their path says.
	away []*node
	// skipped are devices that could not be made.
	skipped map[*node]bool
}

// entry implements visitFunc.
func (u *unpacker) entry(h *tar.Header, n *node, content io.Reader) error {
	err := u.place(h, n, content)
	if len(u.moved) > 0 && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("what it needs has been replaced by another name of its path: %v", err)
	}
	return err
}

// place puts an entry where it lies.
func (u *unpacker) place(h *tar.Header, n *node, content io.Reader) error {
	if n == nil || n.e.Path == "." {
		return nil
	}
	dir, err := u.directory(n.parent)
	if err != nil {
		return err
	}
	name := join(dir, baseOf(n.e.Path))
	if len(name) >= maxPath {
		return syscall.ENAMETOOLONG
	}
	n.disk = name
	if dir != n.parent.e.Path {
		// What is there of itself stays: see land.
		if own := u.reader.node(name); own != nil && own != n && own.disk == name && u.reader.alive(own, nil) {
			n.shadowed = true
			return nil
		}
		u.away = append(u.away, n)
	}
	if h.Typeflag == tar.TypeLink {
		return u.link(n, name)
	}
	switch n.e.Type {
	case Dir:
		return u.disk.mkdir(name, true)
	case File:
		return u.disk.file(name, &n.e, content)
	case Symlink:
		return u.disk.symlink(name, &n.e)
	default:
		made, err := u.disk.node(name, &n.e)
		if !made {
			if u.skipped == nil {
				u.skipped = map[*node]bool{}
			}
			u.skipped[n] = true
			return u.gone(name)
		}
		return err
	}
}

// gone removes what an entry that could not be made replaces.
func (u *unpacker) gone(name string) error {
	fd, err := u.disk.dir(parentOf(name))
	if err != nil {
		return err
	}
	return removeAt(fd, baseOf(name))
}

// link makes n a hard link of another name of its group, which are dropped once they are gone.
func (u *unpacker) link(n *node, name string) error {
	g := n.group
	for len(g.nodes) > 0 && (g.nodes[0] == n || !u.reader.alive(g.nodes[0], nil)) {
		g.nodes = g.nodes[1:]
	}
	for _, other := range g.nodes {
		switch {
		case other == n || other.shadowed || !u.reader.alive(other, nil):
			continue
		case u.skipped[other]:
			u.skipped[n] = true
			return u.gone(name)
		}
		return u.disk.link(other.disk, name)
	}
	return errors.New("nothing is left to link to")
}

// directory returns where the directory n lies on disk, making it if it is only implied. The first time it decides: where the
// layers below have a symlink of that name, and this layer does not hide it, n lies where that points.
func (u *unpacker) directory(n *node) (string, error) {
	if n.disk != "" {
		return n.disk, nil
	}
	if n.parent == nil {
		n.disk = "."
		return n.disk, nil
	}
	dir, err := u.directory(n.parent)
	if err != nil {
		return "", err
	}
	name := join(dir, baseOf(n.e.Path))
	if u.lower != nil && !n.hides() {
		_, isLink, err := lowerLink(u.lower, name)
		if err == nil && isLink {
			u.moved = append(u.moved, n)
			if name, err = u.land(name); err == nil {
				err = u.mkdirAll(name)
			}
		}
		if err != nil {
			return "", err
		}
	}
	n.disk = name
	return name, u.mkdir(name, true)
}

// hides reports whether the layer hides what is below at the place of n.
func (n *node) hides() bool {
	if n.white {
		return true
	}
	for p := n.parent; p != nil; p = p.parent {
		if p.white || p.opaque {
			return true
		}
	}
	return false
}

// land returns where a symlink of the layers below points to.
func (u *unpacker) land(name string) (string, error) {
	return resolve(name, func(p string) (string, bool, error) {
		if n := u.reader.node(p); n != nil && n.present && n.disk == p && u.reader.alive(n, nil) {
			return n.e.Linkname, n.e.Type == Symlink, nil
		}
		return lowerLink(u.lower, p)
	})
}

// mkdirAll makes a directory and its parents without an entry of their own, in place of nothing else.
func (u *unpacker) mkdirAll(name string) error {
	if name == "." {
		return nil
	}
	if err := u.mkdirAll(parentOf(name)); err != nil {
		return err
	}
	return u.mkdir(name, false)
}

func (u *unpacker) mkdir(name string, replace bool) error {
	if name == "." {
		return nil
	}
	if err := u.disk.mkdir(name, replace); err != nil {
		return err
	}
	if u.made == nil {
		u.made = map[string]bool{}
	}
	u.made[name] = true
	return nil
}

// finish puts on disk what needs the whole layer to be known. It works on the layer as it lies on the ones below, so disk and
// Stack cannot differ.
func (u *unpacker) finish(ix *Index) error {
	landed := ix
	if u.lower != nil {
		var err error
		if landed, err = u.landed(ix); err != nil {
			return err
		}
		if err := u.passed(landed); err != nil {
			return err
		}
		if err := u.whiteouts(landed); err != nil {
			return err
		}
	}
	dirs, err := u.directories(landed)
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		err := u.disk.finishDir(d.Path, &d, d.Opaque)
		if own, ok := landed.Lookup(d.Path); (!ok || own.Type != Dir) && errors.Is(err, fs.ErrNotExist) {
			// It was made on the way to something that the layer itself replaced.
			continue
		}
		if err != nil {
			return fmt.Errorf("directory %q: %w", d.Path, err)
		}
	}
	// What cannot be read of an index looks as if it were not there.
	return cmp.Or(ix.Err(), landed.Err())
}

// landed returns the index of the layer as it lies on the ones below, and checks that it was unpacked so. They can only
// differ if the layer itself changes, after it used it, where a symlink leads: no tool writes such a layer.
func (u *unpacker) landed(ix *Index) (*Index, error) {
	l := &lander{ix: ix, lower: u.lower, dirs: map[string]string{".": "."}}
	for _, d := range ix.implicit {
		if _, err := l.dir(d); err != nil {
			return nil, err
		}
	}
	for e := range ix.All() {
		if e.Type == Whiteout || e.Path == "." {
			continue
		}
		want, err := l.path(e.Path)
		if err != nil {
			return nil, err
		}
		n := u.reader.nodes[e.Path]
		lies := e.Path // what is packed
		if n != nil {
			lies = n.disk
		}
		if lies != want {
			return nil, fmt.Errorf("entry %q belongs at %q but lies at %q: a later entry changes the way", e.Path, want, lies)
		}
		if want == e.Path || u.skipped[n] || n.shadowed && ix.has(want) {
			continue
		}
		if kind, err := u.disk.kind(want); err != nil || kind == 0 {
			return nil, errors.Join(err, fmt.Errorf("entry %q belongs at %q: a later entry replaces the directory it is in", e.Path, want))
		}
	}
	for _, n := range u.moved {
		if n.present || !u.reader.alive(n, nil) {
			return nil, fmt.Errorf("directory %q is replaced after the layer used it as the symlink it is below", n.e.Path)
		}
	}
	if !l.moved {
		return ix, nil
	}
	landed, err := l.index()
	if err != nil {
		return nil, err
	}
	return landed, u.agrees(landed)
}

// agrees refuses a layer that names one path, through symlinks below, as a file and as a directory with something in it, in an order that made it a
// directory on disk where it is a file in the index, which has no order; and one that leaves on disk what the index has not.
func (u *unpacker) agrees(ix *Index) error {
	for e := range ix.All() {
		if e.Type == Dir || e.Type == Whiteout {
			continue
		}
		if kind, err := u.disk.kind(e.Path); err != nil || kind == unix.S_IFDIR {
			return errors.Join(err, fmt.Errorf("entry %q is both a directory and none: the layer reaches it by several names", e.Path))
		}
	}
	for _, n := range u.away {
		if _, ok := ix.Lookup(n.disk); ok || u.reader.alive(n, nil) {
			continue
		}
		if kind, err := u.disk.kind(n.disk); err != nil || kind != 0 && kind != unix.S_IFDIR {
			return errors.Join(err, fmt.Errorf("entry %q, at %q, is in a directory that is replaced by one name of it and kept by another", n.e.Path, n.disk))
		}
	}
	return nil
}

// passed removes directories that were only made on the way to where a symlink below leads, and that the layer, through another symlink, hides.
func (u *unpacker) passed(ix *Index) error {
	for _, name := range slices.Backward(slices.SortedFunc(maps.Keys(u.made), compare)) {
		if ix.has(name) || !hiddenBelow(ix, name) {
			continue
		}
		if err := u.gone(name); err != nil {
			return fmt.Errorf("removing %q: %w", name, err)
		}
		delete(u.made, name)
	}
	return nil
}

// whiteouts hides what the layers below have and this one removes. What they do not have needs no whiteout, and would show
// one in a directory that overlayfs has nothing to merge with.
func (u *unpacker) whiteouts(ix *Index) error {
	for e := range ix.All() {
		if e.Path == "." && e.Opaque {
			if err := u.emptyRoot(ix); err != nil {
				return err
			}
		}
		if e.Type != Whiteout || hiddenAbove(ix, e.Path) {
			continue
		}
		if !e.Opaque && ix.list.all().under(e.Path).any() {
			continue // It was made again.
		}
		if err := u.remove(e); err != nil {
			return fmt.Errorf("removing %q: %w", e.Path, err)
		}
	}
	return nil
}

// remove puts the whiteout of a path on disk, or for an opaque one the directory that will be.
func (u *unpacker) remove(e *Entry) error {
	old, err := u.lower.Lstat(e.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case e.Opaque && old.Type == Dir:
		return u.mkdirAll(e.Path)
	case e.Opaque:
		return nil
	}
	if err := u.mkdirAll(parentOf(e.Path)); err != nil {
		return err
	}
	return u.disk.whiteout(e.Path)
}

// emptyRoot hides all that is below, one by one: overlayfs has no opaque root.
func (u *unpacker) emptyRoot(ix *Index) error {
	for e, err := range u.lower.ReadDir(".") {
		if err != nil {
			return err
		}
		if own, ok := ix.Lookup(e.Path); u.made[e.Path] || ok && own.Type != Whiteout {
			continue
		}
		if err := u.disk.whiteout(e.Path); err != nil {
			return fmt.Errorf("removing %q: %w", e.Path, err)
		}
	}
	return nil
}

// directories returns all directories on disk with what they are to be, sorted. The root is always among them. Opaque is set
// only where there is something to hide.
func (u *unpacker) directories(ix *Index) ([]Entry, error) {
	byName := map[string]bool{".": true}
	var out []Entry
	for e := range ix.All() {
		if e.Type == Dir {
			out = append(out, *e)
			byName[e.Path] = true
		}
	}
	if len(out) == 0 || out[0].Path != "." {
		out = append(out, defaultDir("."))
	}
	for name := range u.made {
		if !byName[name] && !replaced(ix, name) {
			out = append(out, defaultDir(name))
		}
	}
	slices.SortFunc(out, byPath)
	for i := range out {
		if err := u.overLower(ix, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// replaced reports whether something that is no directory took the place of name or of a parent.
func replaced(ix *Index, name string) bool {
	for ; name != "."; name = parentOf(name) {
		if e, ok := ix.Lookup(name); ok && e.Type != Dir && e.Type != Whiteout {
			return true
		}
	}
	return false
}

// overLower completes a directory with what the layers below have in its place: if the layer does not describe it, they do.
func (u *unpacker) overLower(ix *Index, d *Entry) error {
	own, ok := ix.Lookup(d.Path)
	d.Opaque = false
	if u.lower == nil {
		return nil
	}
	if hiddenAbove(ix, d.Path) {
		if root, ok := ix.Lookup("."); ok && root.Opaque && parentOf(d.Path) == "." {
			e, err := u.lower.Lstat(d.Path)
			d.Opaque = err == nil && e.Type == Dir
		}
		return nil
	}
	e, err := u.lower.Lstat(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	removed := ok && own.Type == Whiteout && !own.Opaque
	described := ok && own.Type == Dir
	if e.Type != Dir {
		if described || removed {
			return nil
		}
		return fmt.Errorf("parent %q is no directory in the layers below: %w", d.Path, syscall.ENOTDIR)
	}
	if !described && !removed {
		name := d.Path
		*d = e
		d.Path = name
	}
	d.Opaque = ok && (own.Opaque || removed) && d.Path != "."
	return nil
}
