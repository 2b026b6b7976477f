package copy

import (
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
)

const (
	// tableSize is how many names of a table are in memory at once.
	tableSize = 16384
	// fanout is how many runs of about one size become one.
	fanout = 4
	// knownDirs is how many directories that were looked up in runs stay in memory.
	knownDirs = 1024
	// maxPath is what Linux takes (PATH_MAX), and what a List keeps.
	maxPath = 4096
)

// table is what was put at each path last. Of very many names few are in memory: it is a log-structured merge tree. A walk comes in the order of a
// layer, so most names are just added to the newest run; those that come before its last name are kept in memory, and when they are many become a run
// themselves, the newest from then on.
type table struct {
	// temp makes nameless files for the runs; nil makes them in the system's directory for temporary files.
	temp func() (*os.File, error)
	// most is how many names may be in memory; 0 is tableSize.
	most int

	// recent is newer than all runs and has no name that comes after the last of the newest. A Whiteout, here as in the runs, is a name that was taken
	// away.
	recent map[string]*node
	runs   []*run // oldest first
	known  map[string]*node
	// dead is how many names have been met in runs by removals since all runs were merged.
	dead int
}

// run is nodes sorted as in a layer.
type run struct {
	*layer.List
	first, last string
}

func (r *run) add(n *node) error {
	if len(n.Path) >= maxPath {
		return fmt.Errorf("path %.60q... is longer than %d bytes", n.Path, maxPath-1)
	}
	if r.Len() == 0 {
		r.first = n.Path
	}
	r.last = n.Path
	return r.Add(&n.Entry, n.note())
}

// get returns what is at a path, nil for nothing. After a change it has to be put again.
func (t *table) get(name string) (*node, error) {
	n, err := t.find(name)
	if n == nil || n.Type == layer.Whiteout {
		return nil, err
	}
	return n, err
}

func (t *table) find(name string) (*node, error) {
	if n, ok := t.recent[name]; ok {
		return n, nil
	}
	if n, ok := t.known[name]; ok {
		return n, nil
	}
	for i := len(t.runs) - 1; i >= 0; i-- {
		r := t.runs[i]
		if layer.Less(name, r.first) || layer.Less(r.last, name) {
			continue
		}
		at, ok := r.Find(name)
		if !ok {
			if err := r.Err(); err != nil {
				return nil, err
			}
			continue
		}
		n := nodeOf(r.At(at))
		if err := r.Err(); err != nil {
			return nil, err
		}
		if n.Type == layer.Dir {
			t.know(n)
		}
		return n, nil
	}
	return nil, nil
}

// know keeps a directory at hand: it is looked up for all that is in it.
func (t *table) know(n *node) {
	if len(t.known) >= knownDirs {
		clear(t.known)
	}
	if t.known == nil {
		t.known = map[string]*node{}
	}
	t.known[n.Path] = n
}

func (t *table) put(n *node) error {
	delete(t.known, n.Path)
	if k := len(t.runs); k > 0 && layer.Less(t.runs[k-1].last, n.Path) {
		return t.runs[k-1].add(n)
	}
	if t.recent == nil {
		t.recent = map[string]*node{}
	}
	t.recent[n.Path] = n
	most := t.most
	if most == 0 {
		most = tableSize
	}
	if len(t.recent) <= most {
		return nil
	}
	return t.flush()
}

// remove takes a path away with all below it. dir says that there may be something below a path at which there is nothing.
func (t *table) remove(name string, dir bool) error {
	n, err := t.get(name)
	if err != nil {
		return err
	}
	if n != nil {
		dir = n.Type == layer.Dir
	}
	if dir {
		for p := range t.recent {
			if below(name, p) {
				delete(t.recent, p)
			}
		}
		if err := t.removeBelow(name); err != nil {
			return err
		}
	}
	delete(t.recent, name)
	return t.takeAway(name)
}

// removeBelow takes away all that the runs have below a path.
func (t *table) removeBelow(name string) error {
	var cs []*cursor
	for _, r := range slices.Backward(t.runs) {
		i, ok := r.Find(name)
		if ok {
			i++
		}
		end, _ := r.Find(name + "\x01") // a separator comes before every byte
		if err := r.Err(); err != nil {
			return err
		}
		cs = append(cs, &cursor{run: r, next: i, end: end})
		t.dead += end - i
	}
	for n, err := range merge(cs) {
		if err == nil && n.Type != layer.Whiteout {
			err = t.put(&node{Entry: layer.Entry{Path: n.Path, Type: layer.Whiteout}})
		}
		if err != nil {
			return err
		}
	}
	// What has been taken away would be met at every further removal.
	if t.dead <= t.len() {
		return nil
	}
	t.dead = 0
	// What is in memory goes along: without what was taken away the run may end before it.
	if err := t.push(t.cursors(), 0); err != nil {
		return err
	}
	clear(t.recent)
	return nil
}

// takeAway hides what the runs have at a path.
func (t *table) takeAway(name string) error {
	n, err := t.get(name)
	if err != nil || n == nil {
		return err
	}
	return t.put(&node{Entry: layer.Entry{Path: name, Type: layer.Whiteout}})
}

// flush makes a run of what is in memory.
func (t *table) flush() error {
	// The run that was the newest will not grow any more.
	if err := t.compact(); err != nil {
		return err
	}
	if err := t.push([]*cursor{t.memory()}, len(t.runs)); err != nil {
		return err
	}
	clear(t.recent)
	return t.compact()
}

// compact merges the newest runs where there are several of about one size.
func (t *table) compact() error {
	for len(t.runs) > 0 {
		size, lo := t.runs[len(t.runs)-1].size(), len(t.runs)
		for lo > 0 && t.runs[lo-1].size() <= size {
			lo--
		}
		if len(t.runs)-lo < fanout {
			return nil
		}
		if err := t.push(cursorsOf(t.runs[lo:]), lo); err != nil {
			return err
		}
	}
	return nil
}

// size is the number of digits that the length has to the base of fanout.
func (r *run) size() (digits int) {
	for n := r.Len(); n > 0; n /= fanout {
		digits++
	}
	return digits
}

// push puts one run with what cs have in the place of the runs from lo on.
func (t *table) push(cs []*cursor, lo int) error {
	r := &run{List: layer.NewList(t.temp)}
	for n, err := range merge(cs) {
		if err != nil {
			return err
		}
		if n.Type == layer.Whiteout && lo == 0 {
			continue // there is nothing older to be hidden
		}
		if err := r.add(n); err != nil {
			return err
		}
	}
	t.runs = t.runs[:lo]
	if r.Len() > 0 {
		t.runs = append(t.runs, r)
	}
	return nil
}

// all yields what is at each path, sorted as in a layer. Nothing must be put meanwhile.
func (t *table) all() iter.Seq2[*node, error] {
	cs := t.cursors()
	return func(yield func(*node, error) bool) {
		for n, err := range merge(cs) {
			if err == nil && n.Type == layer.Whiteout {
				continue
			}
			if !yield(n, err) || err != nil {
				return
			}
		}
	}
}

// len is how many names there may be.
func (t *table) len() int {
	n := len(t.recent)
	for _, r := range t.runs {
		n += r.Len()
	}
	return n
}

// cursor is a place in sorted nodes: those in memory, or those of a run.
type cursor struct {
	nodes     []*node
	run       *run
	next, end int

	entry *layer.Entry // nil behind the end
	note  []byte
}

func (t *table) memory() *cursor {
	return nodesCursor(slices.SortedFunc(maps.Values(t.recent), func(a, b *node) int {
		if layer.Less(a.Path, b.Path) {
			return -1
		}
		return 1
	}))
}

// cursors returns those of all there is, the newest first.
func (t *table) cursors() []*cursor { return append([]*cursor{t.memory()}, cursorsOf(t.runs)...) }

// cursorsOf returns those of runs, the newest first.
func cursorsOf(runs []*run) []*cursor {
	var cs []*cursor
	for _, r := range slices.Backward(runs) {
		cs = append(cs, &cursor{run: r, end: r.Len()})
	}
	return cs
}

func nodesCursor(nodes []*node) *cursor { return &cursor{nodes: nodes, end: len(nodes)} }

func (c *cursor) advance() error {
	i := c.next
	c.next++
	switch {
	case i >= c.end:
		c.entry = nil
	case c.run == nil:
		c.entry = &c.nodes[i].Entry
	default:
		c.entry, c.note = c.run.At(i)
		return c.run.Err()
	}
	return nil
}

func (c *cursor) node() *node {
	if c.run == nil {
		return c.nodes[c.next-1]
	}
	return nodeOf(c.entry, c.note)
}

// merge yields the nodes from cursors on, sorted; of those with one path that of the first cursor. An error is the last.
func merge(cs []*cursor) iter.Seq2[*node, error] {
	return func(yield func(*node, error) bool) {
		for _, c := range cs {
			if err := c.advance(); err != nil {
				yield(nil, err)
				return
			}
		}
		for {
			var first *cursor
			for _, c := range cs {
				if c.entry != nil && (first == nil || layer.Less(c.entry.Path, first.entry.Path)) {
					first = c
				}
			}
			if first == nil || !yield(first.node(), nil) {
				return
			}
			name := first.entry.Path
			for _, c := range cs {
				if c.entry == nil || c.entry.Path != name {
					continue
				}
				if err := c.advance(); err != nil {
					yield(nil, err)
					return
				}
			}
		}
	}
}

// below reports whether name is strictly below dir; both are clean.
func below(dir, name string) bool {
	if dir == "." {
		return name != "."
	}
	return len(name) > len(dir) && name[len(dir)] == '/' && strings.HasPrefix(name, dir)
}
