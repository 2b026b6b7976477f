package layer

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"os"
	"sort"
	"strings"
	"sync/atomic"

	"github.com/cairn-build/cairn/pkg/spill"
)

const (
	// blockEntries is how many entries are decoded at once.
	blockEntries = 16
	// keptBlocks is how many blocks stay decoded.
	keptBlocks = 8
)

// List is entries in the order of Less, each with a note of the caller's. There may be millions: they are kept as an index writes them, some 70
// bytes each, most of which lie in a nameless file where they are many. Entries are decoded when they are asked for. The zero List is empty.
//
// Reading is safe for concurrent use, but not while something is added. A List that cannot be read any more, because of its file, has zero
// entries; Err tells.
type List struct {
	// Temp makes the nameless file; nil makes it in the system's directory for temporary files. Set it before the first Add.
	Temp func() (*os.File, error)

	// src has the entries, end bytes; body is src where entries can be added.
	src  io.ReaderAt
	end  int64
	body *spill.Bytes
	// noted means that each entry is followed by its note.
	noted   bool
	blocks  []blockAt
	n       int
	last    string // the path of the last entry
	buf     []byte
	decoded [keptBlocks]atomic.Pointer[block]
	err     atomic.Pointer[error]
}

// blockAt is where a block begins, and the path of its first entry.
type blockAt struct {
	off  int64
	path string
}

// block is some entries, decoded.
type block struct {
	k       int
	entries []Entry
	notes   [][]byte
}

// NewList returns an empty list whose entries have notes.
func NewList(temp func() (*os.File, error)) *List { return &List{Temp: temp, noted: true} }

// Len is how many entries there are.
func (l *List) Len() int { return l.n }

// Add appends an entry, whose path must come after all others. Nothing of e and note is kept.
func (l *List) Add(e *Entry, note []byte) error {
	if l.n > 0 && compare(l.last, e.Path) >= 0 {
		return fmt.Errorf("entry %q comes after %q, out of order", e.Path, l.last)
	}
	if l.body == nil {
		l.body = &spill.Bytes{Temp: l.Temp}
		l.src = l.body
	}
	if l.n%blockEntries == 0 {
		l.blocks = append(l.blocks, blockAt{l.end, strings.Clone(e.Path)})
	}
	l.buf = appendEntry(l.buf[:0], l.last, e)
	if l.noted {
		l.buf = binary.AppendUvarint(l.buf, uint64(len(note)))
		l.buf = append(l.buf, note...)
	}
	if _, err := l.body.Write(l.buf); err != nil {
		return l.broken(err)
	}
	l.last, l.end = e.Path, l.end+int64(len(l.buf))
	l.n++
	return nil
}

// Err is why something could not be read, nil if all could.
func (l *List) Err() error {
	if err := l.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (l *List) broken(err error) error {
	err = fmt.Errorf("reading a list of entries: %w", err)
	l.err.CompareAndSwap(nil, &err)
	return err
}

// At returns the entry at a place and its note. Neither must be changed.
func (l *List) At(i int) (*Entry, []byte) {
	b := l.block(i / blockEntries)
	i %= blockEntries
	if i >= len(b.entries) {
		return &Entry{}, nil
	}
	if b.notes == nil {
		return &b.entries[i], nil
	}
	return &b.entries[i], b.notes[i]
}

func (l *List) at(i int) *Entry {
	e, _ := l.At(i)
	return e
}

// path is that of the entry at a place. Of many a place it is known without decoding anything: most layers are small.
func (l *List) path(i int) string {
	switch {
	case i%blockEntries == 0:
		return l.blocks[i/blockEntries].path
	case i == l.n-1:
		return l.last
	}
	return l.at(i).Path
}

// block returns a block, decoded. The last one of a list that grows is decoded again when it has more entries.
func (l *List) block(k int) *block {
	want := min(l.n-k*blockEntries, blockEntries)
	kept := &l.decoded[k%keptBlocks]
	if b := kept.Load(); b != nil && b.k == k && len(b.entries) == want {
		return b
	}
	b, err := l.decode(k, want)
	if err != nil {
		_ = l.broken(err) // Err tells
		return &block{}
	}
	kept.Store(b)
	return b
}

func (l *List) decode(k, n int) (*block, error) {
	end := l.end
	if k+1 < len(l.blocks) {
		end = l.blocks[k+1].off
	}
	data := make([]byte, end-l.blocks[k].off)
	if err := l.read(data, l.blocks[k].off); err != nil {
		return nil, err
	}
	b := &block{k: k, entries: make([]Entry, n)}
	if l.noted {
		b.notes = make([][]byte, n)
	}
	d := decoder{data: data}
	// The entry before the first is not here, but the first itself begins as that does.
	prev := l.blocks[k].path
	for i := range b.entries {
		d.entry(&b.entries[i], prev)
		prev = b.entries[i].Path
		if l.noted {
			b.notes[i] = d.bytes(d.uvarint())
		}
	}
	if d.bad {
		return nil, errIndex
	}
	return b, nil
}

// read fills p with what is encoded at off.
func (l *List) read(p []byte, off int64) error {
	n, err := l.src.ReadAt(p, off)
	if n < len(p) {
		return cmp.Or(err, io.ErrUnexpectedEOF)
	}
	return nil
}

// All yields the entries and their notes, in order. They must not be changed.
func (l *List) All() iter.Seq2[*Entry, []byte] {
	return func(yield func(*Entry, []byte) bool) {
		for i := range l.n {
			e, note := l.At(i)
			if l.Err() != nil || !yield(e, note) {
				return
			}
		}
	}
}

// Find returns the place of a path, or where it would be.
func (l *List) Find(name string) (int, bool) { return l.all().find(name) }

// all is the whole list.
func (l *List) all() span { return span{l, 0, l.n} }

// span is the entries lo to hi of a list.
type span struct {
	l      *List
	lo, hi int
}

func (s span) len() int          { return s.hi - s.lo }
func (s span) at(i int) *Entry   { return s.l.at(s.lo + i) }
func (s span) path(i int) string { return s.l.path(s.lo + i) }

// from leaves out the first n entries, to all but the first n.
func (s span) from(n int) span { return span{s.l, s.lo + n, s.hi} }
func (s span) to(n int) span   { return span{s.l, s.lo, s.lo + n} }

// find returns the place of name in s, or where it would be, and whether it is there.
func (s span) find(name string) (int, bool) {
	i := s.lowerBound(name)
	return i, i < s.len() && s.path(i) == name
}

// lowerBound is the place of the first entry that does not come before name. Only one block is decoded for it.
func (s span) lowerBound(name string) int {
	if s.lo >= s.hi || compare(s.path(0), name) >= 0 {
		return 0
	}
	if s.hi == s.l.n && compare(s.l.last, name) < 0 {
		return s.len()
	}
	first, last := s.lo/blockEntries, (s.hi-1)/blockEntries
	blocks := s.l.blocks[first : last+1]
	k := first + sort.Search(len(blocks), func(i int) bool { return compare(blocks[i].path, name) >= 0 })
	if k == first {
		// Of the first block there may be a part in s.
		hi := min(s.hi, (first+1)*blockEntries)
		return sort.Search(hi-s.lo, func(i int) bool { return compare(s.path(i), name) >= 0 })
	}
	lo := max(s.lo, (k-1)*blockEntries)
	hi := min(s.hi, k*blockEntries)
	return lo - s.lo + sort.Search(hi-lo, func(i int) bool { return compare(s.l.path(lo+i), name) >= 0 })
}

// under returns the entries below dir.
func (s span) under(dir string) span {
	at, ok := s.find(dir)
	if ok {
		at++
	}
	s = s.from(at)
	return s.to(s.endBelow(dir))
}

// endBelow returns the end of the entries below dir, given that s starts with the first that could be.
func (s span) endBelow(dir string) int {
	if dir == "." {
		return s.len()
	}
	if s.len() == 0 || !below(dir, s.path(0)) {
		return 0
	}
	// No other name that begins with dir comes before this one, since a separator comes before every byte.
	return s.lowerBound(dir + "\x01")
}

// any reports whether there is more than whiteouts: those alone do not make a directory.
func (s span) any() bool {
	for i := range s.len() {
		if s.at(i).Type != Whiteout {
			return true
		}
	}
	return false
}
