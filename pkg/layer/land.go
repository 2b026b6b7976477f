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
	direct, moved, from, err := l.split()
	if err != nil {
		return l.ix, err
	}
	kept := &List{Temp: direct.Temp}
	for e := range direct.All() {
		if e.Type == Dir || e.Type == Whiteout || !moved.all().under(e.Path).any() {
			if err := kept.Add(e, nil); err != nil {
				return l.ix, err
			}
			continue
		}
		// What has come to lie below it took its place.
		if err := l.alone(e.Path); err != nil {
			return l.ix, err
		}
	}
	replaced := map[string]Entry{}
	added := &List{Temp: direct.Temp}
	for e := range moved.All() {
		at, ok := kept.Find(e.Path)
		implied := kept.all().under(e.Path).any() || moved.all().under(e.Path).any()
		stays := e.Type == Dir || e.Type == Whiteout || !implied
		var both Entry
		fit := !ok
		if ok {
			both, fit = one(*e, *kept.at(at))
		}
		switch {
		case !fit || !stays:
			err = l.alone(from[e.Path])
		case ok:
			replaced[e.Path] = both
		default:
			err = added.Add(e, nil)
		}
		if err != nil {
			return l.ix, err
		}
	}
	return l.join(kept, added, replaced)
}

// join makes the index of two lists. What replaced has stands in place of entries of the first.
func (l *lander) join(kept, added *List, replaced map[string]Entry) (*Index, error) {
	b := newIndexBuilder(kept.Temp)
	var failed error
	add := func(e *Entry) {
		if failed == nil {
			failed = b.add(e)
		}
	}
	i := 0
	for e := range kept.All() {
		for ; i < added.Len() && compare(added.at(i).Path, e.Path) < 0; i++ {
			add(added.at(i))
		}
		if r, ok := replaced[e.Path]; ok {
			e = &r
		}
		add(e)
	}
	for ; i < added.Len(); i++ {
		add(added.at(i))
	}
	for name, content := range l.ix.names {
		p, err := l.path(name)
		if err != nil {
			return l.ix, err
		}
		b.ix.names[p] = content
	}
	return b.ix, errors.Join(failed, kept.Err(), added.Err(), l.ix.Err())
}

// split puts every entry where it lies and returns those that lie where they say and those that moved, both sorted. Of those that moved to one
// place there is one left; from has where it was.
func (l *lander) split() (direct, moved *List, from map[string]string, err error) {
	from = map[string]string{}
	at := map[string]int{} // places in elsewhere
	var elsewhere []Entry
	direct, moved = &List{Temp: l.ix.list.Temp}, &List{Temp: l.ix.list.Temp}
	for own := range l.ix.All() {
		e, old := *own, own.Path
		if e.Path, err = l.entry(&e); err != nil {
			return nil, nil, nil, err
		}
		if e.Type == Hardlink {
			if e.Linkname, err = l.path(e.Linkname); err != nil {
				return nil, nil, nil, err
			}
		}
		switch there := from[e.Path]; {
		case e.Path == old:
			if err := direct.Add(&e, nil); err != nil {
				return nil, nil, nil, err
			}
		case there == "":
			from[e.Path], at[e.Path] = old, len(elsewhere)
			elsewhere = append(elsewhere, e)
		default:
			first := at[e.Path]
			stays, ok := one(elsewhere[first], e)
			if !ok {
				return nil, nil, nil, fmt.Errorf("entries %q and %q both lie at %q", there, old, e.Path)
			}
			if stays.Type == e.Type {
				from[e.Path] = old
			}
			elsewhere[first] = stays
		}
	}
	slices.SortFunc(elsewhere, byPath)
	for i := range elsewhere {
		if err := moved.Add(&elsewhere[i], nil); err != nil {
			return nil, nil, nil, err
		}
	}
	return direct, moved, from, l.ix.Err()
}

// one makes one of two entries that lie at one place, b where both describe it: a whiteout is about the layers below, and which of two files came last
// is not known.
func one(a, b Entry) (Entry, bool) {
	switch {
	case a.Type == Whiteout && b.Type == Whiteout:
		b.Opaque = a.Opaque && b.Opaque
	case a.Type == Whiteout:
		b.Opaque = b.Type == Dir
	case b.Type == Whiteout:
		a.Opaque = a.Type == Dir
		return a, true
	case a.Type == Dir && b.Type == Dir:
		b.Opaque = a.Opaque || b.Opaque
	default:
		return b, false
	}
	return b, true
}

// alone refuses a layer in which a file that is not to be seen has other names.
func (l *lander) alone(name string) error {
	if len(l.ix.groups[name]) > 0 {
		return fmt.Errorf("file %q, which has other names, lies where another entry of the layer is", name)
	}
	return nil
}

func byPath(a, b Entry) int { return compare(a.Path, b.Path) }
