package layer

import (
	"fmt"
	"iter"
	"os"
	"slices"
)

// maxNames is the most bytes of a file that an Index keeps of it.
const maxNames = 1 << 20

// Index is the list of a layer's entries, which can be asked without the layer's bytes. It is immutable once made, and depends on
// nothing but the layer: paths are as the layer has them, whatever symlinks there are in the layers below (see Stack).
//
// A Hardlink has only its Path and its Linkname, the Path of another entry that is neither a Hardlink nor a directory. A
// Whiteout with entries below it removes what was there and makes a new directory; with Opaque set it removes what the
// directory holds below but not the directory itself.
type Index struct {
	list *List
	// names keeps the content of the few files that names are looked up in (etc/passwd, etc/group), up to 1 MiB each.
	names map[string][]byte
	// implicit are the directories that have something in them or are opaque, but have no Dir entry themselves, sorted.
	implicit []string
	// groups are the names of each hard link group by the path of its File.
	groups map[string][]string
	// size is that of all files; devices and owners say whether there are devices, and entries that are not root's.
	size            int64
	devices, owners bool
}

// indexBuilder makes an index of entries that come in order.
type indexBuilder struct {
	ix *Index
	// above are the directories above the entry that came last, and that entry.
	above []string
}

func newIndexBuilder(temp func() (*os.File, error)) *indexBuilder {
	return buildIndex(&List{Temp: temp})
}

// buildIndex is the builder of an index whose list there is; note must be called for what is in it.
func buildIndex(l *List) *indexBuilder {
	return &indexBuilder{ix: &Index{list: l, names: map[string][]byte{}, groups: map[string][]string{}}}
}

// add appends an entry.
func (b *indexBuilder) add(e *Entry) error {
	if err := b.ix.list.Add(e, nil); err != nil {
		return err
	}
	b.note(e)
	return nil
}

// note notes what an index knows of its entries beside the list.
func (b *indexBuilder) note(e *Entry) {
	b.implied(e)
	switch e.Type {
	case File:
		b.ix.size += e.Size
	case Char, Block:
		b.ix.devices = true
	}
	b.ix.owners = b.ix.owners || e.UID != 0 || e.GID != 0
	if e.Type == Hardlink {
		names := b.ix.groups[e.Linkname]
		if len(names) == 0 {
			names = append(names, e.Linkname)
		}
		b.ix.groups[e.Linkname] = append(names, e.Path)
	}
}

// implied notes the directories that an entry implies.
func (b *indexBuilder) implied(e *Entry) {
	for len(b.above) > 0 && !below(b.above[len(b.above)-1], e.Path) {
		b.above = b.above[:len(b.above)-1]
	}
	have := 0
	if len(b.above) > 0 {
		have = len(b.above[len(b.above)-1]) + 1
	}
	for j := have; j < len(e.Path); j++ {
		if e.Path[j] == '/' {
			b.ix.implicit, b.above = append(b.ix.implicit, e.Path[:j]), append(b.above, e.Path[:j])
		}
	}
	if e.Path == "." {
		return
	}
	if e.Type == Whiteout && e.Opaque {
		b.ix.implicit = append(b.ix.implicit, e.Path)
	}
	b.above = append(b.above, e.Path)
}

// Len is how many entries there are.
func (ix *Index) Len() int { return ix.list.Len() }

// Size is how many bytes all files hold together, each once.
func (ix *Index) Size() int64 { return ix.size }

// HasDevices reports whether there are devices.
func (ix *Index) HasDevices() bool { return ix.devices }

// HasOwners reports whether anything belongs to another user or group than root.
func (ix *Index) HasOwners() bool { return ix.owners }

// All yields the entries in the order of Less. They must not be changed. Where not all could be read Err tells.
func (ix *Index) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for e := range ix.list.All() {
			if !yield(e) {
				return
			}
		}
	}
}

// Err is why an entry could not be read, of which there then seemed to be none, and nil otherwise.
func (ix *Index) Err() error { return ix.list.Err() }

// Lookup returns the layer's own entry of a path, a Whiteout or a Hardlink as they are.
func (ix *Index) Lookup(name string) (Entry, bool) {
	i, ok := ix.list.Find(name)
	if !ok {
		return Entry{}, false
	}
	return *ix.list.at(i), true
}

// has reports whether the layer has something at a path, if it is only a directory that is implied.
func (ix *Index) has(name string) bool {
	e, ok := ix.Lookup(name)
	return ok && e.Type != Whiteout || ix.list.all().under(name).any()
}

// namesFile reports whether the content of a path is kept in the index.
func namesFile(name string) bool { return name == "etc/passwd" || name == "etc/group" }

// checkLinks refuses hard links to nothing, to directories and to each other.
func (ix *Index) checkLinks() error {
	for target, names := range ix.groups {
		e, ok := ix.Lookup(target)
		if !ok || slices.Contains([]Type{Hardlink, Dir, Whiteout}, e.Type) {
			return fmt.Errorf("hard link %q to %q, which is no file of the layer", names[1], target)
		}
	}
	return ix.Err()
}
