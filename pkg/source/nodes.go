package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/spill"
)

const (
	// maxSpan is how many names lie together. It bounds what is read for one of them.
	maxSpan = 256
	// maxRecent is how many spans are held as they were last used. Several goroutines may be at work, each in a directory of its own.
	maxRecent = 16
)

// nodes are what has been seen of the listed directories, of which there is one record a name, in spans of neighbours: a context may have very many
// files. A span is read as a whole and held for a while, since whoever asks for a name asks for the next one soon.
type nodes struct {
	bytes  spill.Bytes
	recent []*block // the last used first
}

// span is where a few names of one directory are kept. It holds their records, then their sums.
type span struct {
	first   string // of the names; "" for the first span of a directory
	at      int64
	size, n int
}

// A record has a head of fixed size, then the name, then what a rareNode holds: major and minor, the link with its length, the capability.
const (
	recordHead = 8*6 + 2 + 1 + 1 + 4 + 4 + 2
	rareHead   = 4 + 4 + 4
)

// The flags of a record.
const (
	flagSocket = 1 << iota
	flagLinked
	flagCapability
)

// spanWriter collects the names of a directory, which come sorted.
type spanWriter struct {
	nodes   *nodes
	spans   []span
	first   string
	n       int
	records []byte
	sums    []byte
}

// add takes the next name.
func (w *spanWriter) add(base string, n *node) error {
	if w.n == maxSpan {
		if err := w.flush(); err != nil {
			return err
		}
		w.first = strings.Clone(base)
	}
	b := w.records
	for _, v := range [...]uint64{n.stat.dev, n.stat.ino, uint64(n.stat.size), uint64(n.stat.mtime), uint64(n.stat.ctime), uint64(n.seconds)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(n.mode))
	rare, flags := n.rare.encode()
	if n.socket {
		flags |= flagSocket
	}
	if n.linked {
		flags |= flagLinked
	}
	b = append(b, byte(n.kind), flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(n.verdict))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(rare)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(base)))
	b = append(b, base...)
	w.records = append(b, rare...)
	w.sums = append(w.sums, n.sum[:]...)
	w.n++
	return nil
}

// flush writes what is left.
func (w *spanWriter) flush() error {
	if w.n == 0 {
		return nil
	}
	s := span{first: w.first, at: w.nodes.bytes.Len(), size: len(w.records) + len(w.sums), n: w.n}
	if _, err := w.nodes.bytes.Write(append(w.records, w.sums...)); err != nil {
		return fmt.Errorf("keeping what is in a directory: %w", err)
	}
	w.spans = append(w.spans, s)
	w.n, w.records, w.sums = 0, w.records[:0], w.sums[:0]
	return nil
}

func (r *rareNode) encode() (b []byte, flags byte) {
	if r == nil {
		return nil, 0
	}
	b = binary.LittleEndian.AppendUint32(b, r.major)
	b = binary.LittleEndian.AppendUint32(b, r.minor)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.link)))
	b = append(b, r.link...)
	if r.hasCapability {
		flags = flagCapability
	}
	return append(b, r.capability...), flags
}

// block is a span that was read. Its memory is not used again: who holds it may still look at it when it is no longer among the recent ones.
type block struct {
	span
	data    []byte
	records []int // where they begin
	// changed is set when sums were put in that are not written yet.
	changed bool
}

var errNodesDamaged = errors.New("reading what was kept of a directory: it is not what was written")

// block reads a span.
func (s *nodes) block(at span) (*block, error) {
	for i, b := range s.recent {
		if b.at == at.at {
			copy(s.recent[1:i+1], s.recent[:i])
			s.recent[0] = b
			return b, nil
		}
	}
	b := &block{span: at, data: make([]byte, at.size), records: make([]int, 0, at.n)}
	if _, err := s.bytes.ReadAt(b.data, at.at); err != nil {
		return nil, fmt.Errorf("reading what was kept of a directory: %w", err)
	}
	if !b.index() {
		return nil, errNodesDamaged
	}
	if len(s.recent) == maxRecent {
		last := s.recent[maxRecent-1]
		if err := s.write(last); err != nil {
			return nil, err
		}
		s.recent = s.recent[:maxRecent-1]
	}
	s.recent = slices.Insert(s.recent, 0, b)
	return b, nil
}

// write puts the sums that are new into the file.
func (s *nodes) write(b *block) error {
	if !b.changed {
		return nil
	}
	sums := b.size - b.n*len(layer.Sum{})
	if _, err := s.bytes.WriteAt(b.data[sums:], b.at+int64(sums)); err != nil {
		return fmt.Errorf("keeping the digests of a directory: %w", err)
	}
	b.changed = false
	return nil
}

// index finds the records, and whether all is where it should be.
func (b *block) index() bool {
	at, end := 0, b.size-b.n*len(layer.Sum{})
	for range b.n {
		if end-at < recordHead {
			return false
		}
		name, rare := b.lengths(at)
		next := at + recordHead + name + rare
		if next > end || rare > 0 && rare < rareHead {
			return false
		}
		if rare > 0 && uint64(binary.LittleEndian.Uint32(b.data[next-rare+8:])) > uint64(rare-rareHead) {
			return false
		}
		b.records = append(b.records, at)
		at = next
	}
	return at == end
}

// lengths are those of the name and of what is behind it.
func (b *block) lengths(at int) (name, rare int) {
	h := b.data[at:]
	return int(binary.LittleEndian.Uint16(h[60:])), int(binary.LittleEndian.Uint32(h[56:]))
}

// name is the i-th name.
func (b *block) name(i int) []byte {
	at := b.records[i]
	name, _ := b.lengths(at)
	return b.data[at+recordHead : at+recordHead+name]
}

// find returns which of the names a name is.
func (b *block) find(base string) (int, bool) {
	return sort.Find(b.n, func(i int) int { return strings.Compare(base, string(b.name(i))) })
}

// node is the i-th one, without its path.
func (b *block) node(i int) node {
	at := b.records[i]
	name, rare := b.lengths(at)
	h := b.data[at : at+recordHead]
	u64 := func(i int) uint64 { return binary.LittleEndian.Uint64(h[i:]) }
	flags := h[51]
	n := node{sum: b.sum(i), meta: meta{
		stat:    fileStat{dev: u64(0), ino: u64(8), size: int64(u64(16)), mtime: int64(u64(24)), ctime: int64(u64(32))},
		seconds: int64(u64(40)), mode: uint32(binary.LittleEndian.Uint16(h[48:])), kind: layer.Type(h[50]),
		socket: flags&flagSocket != 0, linked: flags&flagLinked != 0, verdict: int32(binary.LittleEndian.Uint32(h[52:])),
	}}
	if rare > 0 {
		r := b.data[at+recordHead+name:][:rare]
		link := rareHead + int(binary.LittleEndian.Uint32(r[8:]))
		n.rare = &rareNode{
			major: binary.LittleEndian.Uint32(r), minor: binary.LittleEndian.Uint32(r[4:]),
			link: string(r[rareHead:link]), capability: string(r[link:]), hasCapability: flags&flagCapability != 0,
		}
	}
	return n
}

func (b *block) sumAt(i int) []byte {
	const size = len(layer.Sum{})
	return b.data[b.size-(b.n-i)*size:][:size]
}

func (b *block) sum(i int) layer.Sum { return layer.Sum(b.sumAt(i)) }

// setSum puts a sum in. It is written when the block is no longer among the recent ones.
func (b *block) setSum(i int, sum layer.Sum) {
	copy(b.sumAt(i), sum[:])
	b.changed = true
}

// find returns where a name of a listed directory is, if it is there.
func (s *nodes) find(d *directory, base string) (*block, int, bool, error) {
	i := sort.Search(len(d.spans), func(i int) bool { return d.spans[i].first > base }) - 1
	if i < 0 {
		return nil, 0, false, nil
	}
	b, err := s.block(d.spans[i])
	if err != nil {
		return nil, 0, false, err
	}
	j, ok := b.find(base)
	return b, j, ok, nil
}

// names is how many names there are in a listed directory.
func (d *directory) names() (n int) {
	for _, s := range d.spans {
		n += s.n
	}
	return n
}
