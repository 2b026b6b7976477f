package layer

import "iter"

// packed are the entries of a layer being read that came in the order of Less and of which nothing else is to be known: most of a layer, mostly. A node
// of each would take five times the memory.
type packed struct {
	list List
	// gone has a bit for each entry that is not there any more: replaced with its directory, or a node again.
	gone []uint64
	// dropped is how far what was below a directory has been dropped before.
	dropped map[string]int
}

// follows reports whether a path comes after all that are packed.
func (p *packed) follows(name string) bool { return p.list.n == 0 || compare(p.list.last, name) < 0 }

// take removes the entry of a path and returns it.
func (p *packed) take(name string) (Entry, bool) {
	if p.follows(name) {
		return Entry{}, false
	}
	i, ok := p.list.Find(name)
	if !ok || p.isGone(i) {
		return Entry{}, false
	}
	p.lose(i)
	return *p.list.at(i), true
}

// drop removes all that is below a directory.
func (p *packed) drop(dir string) {
	s := p.list.all().under(dir)
	if s.len() == 0 {
		return
	}
	if p.dropped == nil {
		p.dropped = map[string]int{}
	}
	for i := max(s.lo, p.dropped[dir]); i < s.hi; i++ {
		p.lose(i)
	}
	p.dropped[dir] = s.hi
}

func (p *packed) lose(i int) {
	for len(p.gone) <= i/64 {
		p.gone = append(p.gone, 0)
	}
	p.gone[i/64] |= 1 << (i % 64)
}

func (p *packed) isGone(i int) bool { return i/64 < len(p.gone) && p.gone[i/64]>>(i%64)&1 != 0 }

// left yields the entries that are left.
func (p *packed) left() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		i := -1
		for e := range p.list.All() {
			if i++; !p.isGone(i) && !yield(e) {
				return
			}
		}
	}
}
