package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/cairn-build/cairn/pkg/layer"
)

// A table of files is a sorted list in blocks, of which a reader needs the first keys in memory and a few blocks at a time:
//
//	version, blocks, index, offset of the index (8 bytes, big endian)
//
// A block is a number of entries: how much of the key it shares with the one before, the length of what follows of it, that; size, mtime, ctime, inode,
// device, idle as varints; the sum. The index has, for each block, the length of its first key, that, and the block's length.
const (
	// filesVersion begins a table. What begins otherwise is not read.
	filesVersion = "cairn files 2\n"
	// fileBlock is the length at which a block is full.
	fileBlock = 4 << 10
	// maxFileKey is longer than the name of any file can be in a system call.
	maxFileKey = 8 << 10
	// maxFileBlock is more than any block has.
	maxFileBlock = fileBlock + 2*maxFileKey
	// recentBlocks is how many blocks are held as they were last used.
	recentBlocks = 16
)

var errMalformed = errors.New("malformed")

// fileKey is what a file is called in a table: directory and name with a zero byte between, so that the files of one directory are neighbours.
func fileKey(dir, base string) string { return dir + "\x00" + base }

// fileTableWriter writes a table.
type fileTableWriter struct {
	w     io.Writer
	block []byte
	index []byte
	key   string // of the last entry
	at    uint64
	err   error
}

func newFileTableWriter(w io.Writer) *fileTableWriter {
	t := &fileTableWriter{w: w}
	t.write([]byte(filesVersion))
	return t
}

func (t *fileTableWriter) write(p []byte) {
	if t.err == nil {
		_, t.err = t.w.Write(p)
		t.at += uint64(len(p))
	}
}

// add writes an entry. Keys come sorted.
func (t *fileTableWriter) add(key string, e fileEntry) error {
	if t.err == nil && key <= t.key {
		t.err = fmt.Errorf("%q does not come after %q", key, t.key)
	}
	if t.err != nil || len(key) > maxFileKey {
		return t.err
	}
	if len(t.block) >= fileBlock {
		t.flush()
	}
	shared := 0
	if len(t.block) == 0 {
		t.index = binary.AppendUvarint(t.index, uint64(len(key)))
		t.index = append(t.index, key...)
	} else {
		for shared < min(len(t.key), len(key)) && t.key[shared] == key[shared] {
			shared++
		}
	}
	b := binary.AppendUvarint(t.block, uint64(shared))
	b = binary.AppendUvarint(b, uint64(len(key)-shared))
	b = append(b, key[shared:]...)
	for _, n := range [...]int64{e.stat.size, e.stat.mtime, e.stat.ctime} {
		b = binary.AppendVarint(b, n)
	}
	for _, n := range [...]uint64{e.stat.ino, e.stat.dev, e.idle} {
		b = binary.AppendUvarint(b, n)
	}
	t.block = append(b, e.sum[:]...)
	t.key = key
	return t.err
}

func (t *fileTableWriter) flush() {
	if len(t.block) > 0 {
		t.index = binary.AppendUvarint(t.index, uint64(len(t.block)))
		t.write(t.block)
		t.block = t.block[:0]
	}
}

// close writes the rest.
func (t *fileTableWriter) close() error {
	t.flush()
	at := t.at
	t.write(t.index)
	t.write(binary.BigEndian.AppendUint64(nil, at))
	return t.err
}

// fileTable reads a table.
type fileTable struct {
	r      io.ReaderAt
	blocks []blockPlace
	recent []*fileBlockEntries // the last used first
}

type blockPlace struct {
	first  string // key
	before string // the next block's first key, "" if there is none
	at     int64
	size   int
}

// fileBlockEntries are the entries of one block.
type fileBlockEntries struct {
	at      int64
	keys    []string
	entries []fileEntry
}

// openFileTable reads the index of a table of a size.
func openFileTable(r io.ReaderAt, size int64) (*fileTable, error) {
	const trailer = 8
	var head [len(filesVersion)]byte
	var tail [trailer]byte
	if size < int64(len(head)+trailer) {
		return nil, errMalformed
	}
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	if _, err := r.ReadAt(tail[:], size-trailer); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	end := binary.BigEndian.Uint64(tail[:])
	if string(head[:]) != filesVersion || end < uint64(len(head)) || end > uint64(size-trailer) {
		return nil, errMalformed
	}
	index := make([]byte, uint64(size-trailer)-end)
	if _, err := r.ReadAt(index, int64(end)); err != nil {
		return nil, err
	}
	t := &fileTable{r: r}
	at, d := uint64(len(head)), decoder{data: index}
	for len(d.data) > 0 {
		first, n := string(d.bytes(d.uvarint())), d.uvarint()
		if d.err != nil || n > end-at || n > maxFileBlock {
			return nil, errMalformed
		}
		if n := len(t.blocks); n > 0 {
			t.blocks[n-1].before = first
		}
		t.blocks = append(t.blocks, blockPlace{first: first, at: int64(at), size: int(n)})
		at += n
	}
	if at != end {
		return nil, errMalformed
	}
	return t, nil
}

// lookup finds an entry. One that cannot be read is not there.
func (t *fileTable) lookup(key string) (fileEntry, bool) {
	i := sort.Search(len(t.blocks), func(i int) bool { return t.blocks[i].first > key }) - 1
	if i < 0 {
		return fileEntry{}, false
	}
	b, err := t.block(t.blocks[i])
	if err != nil {
		return fileEntry{}, false
	}
	if i, ok := slices.BinarySearch(b.keys, key); ok {
		return b.entries[i], true
	}
	return fileEntry{}, false
}

// block returns a block, which is read unless it is one of those that were used last.
func (t *fileTable) block(p blockPlace) (*fileBlockEntries, error) {
	i := slices.IndexFunc(t.recent, func(b *fileBlockEntries) bool { return b.at == p.at })
	var b *fileBlockEntries
	if i >= 0 {
		b = t.recent[i]
		t.recent = slices.Delete(t.recent, i, i+1)
	} else {
		data := make([]byte, p.size)
		if _, err := t.r.ReadAt(data, p.at); err != nil {
			return nil, err
		}
		b = &fileBlockEntries{at: p.at}
		if err := b.decode(data); err != nil {
			return nil, err
		}
		if b.keys[0] != p.first || p.before != "" && b.keys[len(b.keys)-1] >= p.before {
			return nil, errMalformed
		}
	}
	t.recent = slices.Insert(t.recent[:min(len(t.recent), recentBlocks-1)], 0, b)
	return b, nil
}

func (b *fileBlockEntries) decode(data []byte) error {
	d := decoder{data: data}
	var key, all []byte
	var ends []int
	for len(d.data) > 0 && d.err == nil {
		shared := d.uvarint()
		if shared > uint64(len(key)) {
			return errMalformed
		}
		key = append(key[:shared], d.bytes(d.uvarint())...)
		if len(key) > maxFileKey {
			return errMalformed
		}
		e := fileEntry{stat: fileStat{size: d.varint(), mtime: d.varint(), ctime: d.varint(), ino: d.uvarint(), dev: d.uvarint()}, idle: d.uvarint()}
		copy(e.sum[:], d.bytes(uint64(len(layer.Sum{}))))
		b.entries = append(b.entries, e)
		all = append(all, key...)
		ends = append(ends, len(all))
	}
	if d.err != nil || len(ends) == 0 {
		return errMalformed
	}
	keys, at := string(all), 0
	for i, end := range ends {
		b.keys = append(b.keys, keys[at:end])
		if at = end; i > 0 && b.keys[i] <= b.keys[i-1] {
			return errMalformed
		}
	}
	return nil
}

// entries goes through all entries. A block that cannot be read ends it.
func (t *fileTable) entries() *fileCursor {
	c := &fileCursor{}
	if t != nil {
		c.table, c.left = t, t.blocks
	}
	c.load()
	return c
}

// fileCursor is at one of a table's entries, or, without more, at its end.
type fileCursor struct {
	table *fileTable
	left  []blockPlace
	now   *fileBlockEntries
	i     int
}

func (c *fileCursor) more() bool       { return c.now != nil }
func (c *fileCursor) key() string      { return c.now.keys[c.i] }
func (c *fileCursor) entry() fileEntry { return c.now.entries[c.i] }

func (c *fileCursor) next() {
	if c.i++; c.i == len(c.now.keys) {
		c.load()
	}
}

func (c *fileCursor) load() {
	c.now, c.i = nil, 0
	if len(c.left) == 0 {
		return
	}
	b, err := c.table.block(c.left[0])
	if err != nil {
		return
	}
	c.now, c.left = b, c.left[1:]
}

// decoder takes values off the front of data; after an error everything is zero.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) bytes(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.data)) {
		d.err = errMalformed
		return nil
	}
	out := d.data[:n]
	d.data = d.data[n:]
	return out
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.err = errMalformed
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	if n <= 0 {
		d.err = errMalformed
		return 0
	}
	d.data = d.data[n:]
	return v
}
