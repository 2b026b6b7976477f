package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// land returns ix as it lies on the tree below it: entries whose parent directory the layer does not have itself, and which is a
// symlink below, move to where the link points. An entry that lies there of itself wins over one that moved there. Almost
// always nothing moves, and ix itself is returned.
func land(ix *Index, lower Tree) (*Index, error) {
	l := &lander{ix: ix, lower: lower, dirs: map[string]string{".": "."}}
	for _, d := range ix.implicit {
		if _, err := l.dir(d); err != nil {
			return ix, err
		}
	}
	if !l.moved {
		return ix, nil
	}
	return l.index()
}

type lander struct {
	ix    *Index
	lower Tree
	// dirs is where each directory of the layer lies.
	dirs  map[string]string
	moved bool
}

// dir returns where what is in the directory name of the layer lies.
func (l *lander) dir(name string) (string, error) {
	if d, ok := l.dirs[name]; ok {
		return d, nil
	}
	parent, err := l.dir(parentOf(name))
	if err != nil {
		return "", err
	}
	d := join(parent, baseOf(name))
	if _, ok := slices.BinarySearchFunc(l.ix.implicit, name, compare); ok && !hiddenBelow(l.ix, name) {
		if d, err = resolve(d, l.link); err != nil {
			return "", err
		}
	}
	l.dirs[name] = d
	l.moved = l.moved || d != name
	return d, nil
}

// link sees symlinks of the layer before those below it.
func (l *lander) link(name string) (string, bool, error) {
	if e, ok := l.ix.Lookup(name); ok && e.Type != Whiteout {
		return e.Linkname, e.Type == Symlink, nil
	}
	if hiddenBelow(l.ix, name) {
		return "", false, nil
	}
	return lowerLink(l.lower, name)
}

// hiddenBelow reports whether a layer hides what the layers below have at name, by removing it or by hiding what is in a parent.
func hiddenBelow(ix *Index, name string) bool {
	if e, ok := ix.Lookup(name); ok && e.Type == Whiteout && !e.Opaque {
		return true
	}
	return hiddenAbove(ix, name)
}

// hiddenAbove looks at the parents alone.
func hiddenAbove(ix *Index, name string) bool {
	for d := name; d != "."; {
		d = parentOf(d)
		if e, ok := ix.Lookup(d); ok && (e.Opaque || e.Type != Dir) {
			return true
		}
	}
	return false
}

// lowerLink is a linkFunc over a tree.
func lowerLink(t Tree, name string) (string, bool, error) {
	e, err := t.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	return e.Linkname, e.Type == Symlink, err
}

func (l *lander) path(name string) (string, error) {
	if name == "." {
		return name, nil
	}
	d, err := l.dir(parentOf(name))
	return join(d, baseOf(name)), err
}

// entry is path for an entry: an opaque marker lies where its directory does.
func (l *lander) entry(e *Entry) (string, error) {
	if e.Type == Whiteout && e.Opaque {
		return l.dir(e.Path)
	}
	return l.path(e.Path)
}

// index makes the index of the layer with every entry where it lies.
func (l *lander) index() (*Index, error) {
	var entries, moved []Entry
	linked := map[string]string{} // new path → old path of files with several names
	for _, e := range l.ix.entries {
		p, err := l.entry(&e)
		if err != nil {
			return l.ix, err
		}
		old := e.Path
		if e.Path = p; e.Type == Hardlink {
			if e.Linkname, err = l.path(e.Linkname); err != nil {
				return l.ix, err
			}
		}
		if p == old {
			entries = append(entries, e)
			continue
		}
		moved = append(moved, e)
		if len(l.ix.groups()[old]) > 0 {
			linked[p] = old
		}
	}
	slices.SortStableFunc(moved, byPath)
	for i := 0; i < len(entries); i++ {
		// What has come to lie below a file took its place.
		e := &entries[i]
		j, ok := find(moved, e.Path)
		if ok || e.Type == Dir || e.Type == Whiteout || !anyEntry(moved[j:][:endBelow(moved[j:], e.Path)]) {
			continue
		}
		if len(l.ix.groups()[e.Path]) > 0 {
			return l.ix, fmt.Errorf("file %q, which has other names, lies where a directory of the layer is", e.Path)
		}
		entries = slices.Delete(entries, i, i+1)
		i--
	}
	direct := len(entries)
	for i, e := range moved {
		last := i == len(moved)-1 || moved[i+1].Path != e.Path
		j, ok := find(entries[:direct], e.Path)
		rest := entries[j:direct]
		if ok {
			rest = rest[1:]
		}
		under := moved[i+1:]
		implied := anyEntry(rest[:endBelow(rest, e.Path)]) || anyEntry(under[:endBelow(under, e.Path)])
		switch {
		case ok && entries[j].Type == Whiteout && e.Type != Whiteout && (!implied || e.Type == Dir):
			e.Opaque = e.Type == Dir
			entries[j] = e
		case ok && entries[j].Type == Dir && e.Type == Whiteout:
			entries[j].Opaque = entries[j].Opaque || e.Opaque
		case !ok && last && (!implied || e.Type == Dir || e.Type == Whiteout):
			entries = append(entries, e)
		case linked[e.Path] != "":
			return l.ix, fmt.Errorf("file %q, which has other names, lies where another entry of the layer is", linked[e.Path])
		}
	}
	slices.SortFunc(entries, byPath)
	names := map[string][]byte{}
	for name, content := range l.ix.names {
		p, err := l.path(name)
		if err != nil {
			return l.ix, err
		}
		names[p] = content
	}
	return newIndex(entries, names), nil
}

func byPath(a, b Entry) int { return compare(a.Path, b.Path) }
