package layer

import (
	"fmt"
	"slices"
	"sort"
	"sync"
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
	entries []Entry
	// names keeps the content of the few files that names are looked up in (etc/passwd, etc/group), up to 1 MiB each.
	names map[string][]byte
	// implicit are the directories that have something in them or are opaque, but have no Dir entry themselves, sorted.
	implicit []string
	// groups are the names of each hard link group by the path of its File, made when first asked for.
	groups func() map[string][]string
}

// newIndex makes an index of entries that are sorted by Less.
func newIndex(entries []Entry, names map[string][]byte) *Index {
	ix := &Index{entries: entries, names: names, implicit: implicitDirs(entries)}
	ix.groups = sync.OnceValue(func() map[string][]string { return linkGroups(entries) })
	return ix
}

// Entries returns the entries sorted by path (Less). The caller must not change them.
func (ix *Index) Entries() []Entry { return ix.entries }

// Lookup returns the layer's own entry of a path, a Whiteout or a Hardlink as they are.
func (ix *Index) Lookup(name string) (Entry, bool) {
	i, ok := find(ix.entries, name)
	if !ok {
		return Entry{}, false
	}
	return ix.entries[i], true
}

// has reports whether the layer has something at a path, if it is only a directory that is implied.
func (ix *Index) has(name string) bool {
	e, ok := ix.Lookup(name)
	return ok && e.Type != Whiteout || anyEntry(under(ix.entries, name))
}

// find returns the place of name in entries, and whether it is there.
func find(entries []Entry, name string) (int, bool) {
	i := lowerBound(entries, name)
	return i, i < len(entries) && entries[i].Path == name
}

func lowerBound(entries []Entry, name string) int {
	return sort.Search(len(entries), func(i int) bool { return compare(entries[i].Path, name) >= 0 })
}

// under returns the entries below dir.
func under(entries []Entry, dir string) []Entry {
	at, ok := find(entries, dir)
	if ok {
		at++
	}
	return entries[at:][:endBelow(entries[at:], dir)]
}

// endBelow returns the end of the entries below dir, given that entries start with the first that could be. The steps grow, for
// most directories are small and the layer is not.
func endBelow(entries []Entry, dir string) int {
	lo, hi := 0, 1
	for hi <= len(entries) && below(dir, entries[hi-1].Path) {
		lo, hi = hi, hi*2
	}
	hi = min(hi, len(entries))
	return lo + sort.Search(hi-lo, func(i int) bool { return !below(dir, entries[lo+i].Path) })
}

func implicitDirs(entries []Entry) []string {
	var out, stack []string
	for i := range entries {
		e := &entries[i]
		for len(stack) > 0 && !below(stack[len(stack)-1], e.Path) {
			stack = stack[:len(stack)-1]
		}
		have := 0
		if len(stack) > 0 {
			have = len(stack[len(stack)-1]) + 1
		}
		for j := have; j < len(e.Path); j++ {
			if e.Path[j] == '/' {
				out, stack = append(out, e.Path[:j]), append(stack, e.Path[:j])
			}
		}
		if e.Path == "." {
			continue
		}
		if e.Type == Whiteout && e.Opaque {
			out = append(out, e.Path)
		}
		stack = append(stack, e.Path)
	}
	return out
}

func linkGroups(entries []Entry) map[string][]string {
	groups := map[string][]string{}
	for i := range entries {
		if e := &entries[i]; e.Type == Hardlink {
			if len(groups[e.Linkname]) == 0 {
				groups[e.Linkname] = []string{e.Linkname}
			}
			groups[e.Linkname] = append(groups[e.Linkname], e.Path)
		}
	}
	return groups
}

// namesFile reports whether the content of a path is kept in the index.
func namesFile(name string) bool { return name == "etc/passwd" || name == "etc/group" }

// checkOrder refuses entries that Stack could not search.
func checkOrder(entries []Entry) error {
	for i := range entries {
		if i > 0 && compare(entries[i-1].Path, entries[i].Path) >= 0 {
			return fmt.Errorf("entry %q is out of order", entries[i].Path)
		}
	}
	return nil
}

// checkLinks refuses hard links to nothing, to directories and to each other.
func checkLinks(entries []Entry) error {
	for i := range entries {
		if e := &entries[i]; e.Type == Hardlink {
			j, ok := find(entries, e.Linkname)
			if !ok || slices.Contains([]Type{Hardlink, Dir, Whiteout}, entries[j].Type) {
				return fmt.Errorf("hard link %q to %q, which is no file of the layer", e.Path, e.Linkname)
			}
		}
	}
	return nil
}
