package layer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"slices"
	"time"
)

// An encoded index is
//
//	"cairn-ix" 1 · count · entry... · names count · (path content)... · CRC-32C of all before it, little endian
//
// with numbers as varints and strings as length and bytes. An entry is
//
//	shared (bytes of the path it has in common with the one before) · rest of the path · type · flags · fields named by the flags
//
// A reader refuses every version but its own: an index can always be made again from the layer.
const (
	indexMagic   = "cairn-ix"
	indexVersion = 1
	// maxPathBytes is the most memory that the paths of one index may take once they are written out.
	maxPathBytes = 512 << 20
)

const (
	flagOpaque = 1 << iota
	flagOwner
	flagTime
	flagNanos
	flagDigest
	flagXattrs
	flagSize
	flagMode
)

var errIndex = errors.New("corrupt layer index")

// WriteTo encodes an index for ReadIndex.
func (ix *Index) WriteTo(w io.Writer) (int64, error) {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	out := io.MultiWriter(w, sum)
	b := append(make([]byte, 0, 32), indexMagic...)
	b = binary.AppendUvarint(b, indexVersion)
	b = binary.AppendUvarint(b, uint64(ix.list.Len()))
	total := int64(0)
	write := func(w io.Writer, p []byte) error {
		n, err := w.Write(p)
		total += int64(n)
		return err
	}
	err := write(out, b)
	buf := make([]byte, min(ix.list.end, readAhead))
	for off := int64(0); off < ix.list.end && err == nil; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), ix.list.end-off)]
		if err = ix.list.read(buf, off); err == nil {
			err = write(out, buf)
		}
	}
	if err == nil {
		err = write(out, ix.encodedNames())
	}
	if err == nil {
		err = write(w, binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	}
	if err != nil {
		return total, fmt.Errorf("encoding a layer index: %w", err)
	}
	return total, nil
}

func (ix *Index) encodedNames() []byte {
	b := binary.AppendUvarint(nil, uint64(len(ix.names)))
	for _, name := range slices.Sorted(maps.Keys(ix.names)) {
		b = appendString(b, name)
		b = appendString(b, string(ix.names[name]))
	}
	return b
}

// Marshal is what WriteTo writes.
func (ix *Index) Marshal() ([]byte, error) {
	var b bytes.Buffer
	_, err := ix.WriteTo(&b)
	return b.Bytes(), err
}

// Equal reports whether two indexes are the same.
func (ix *Index) Equal(other *Index) (bool, error) {
	if ix.list.end != other.list.end || !maps.EqualFunc(ix.names, other.names, bytes.Equal) {
		return false, nil
	}
	var a, b [32 << 10]byte
	for off := int64(0); off < ix.list.end; off += int64(len(a)) {
		n := min(int64(len(a)), ix.list.end-off)
		if err := errors.Join(ix.list.read(a[:n], off), other.list.read(b[:n], off)); err != nil {
			return false, err
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return false, nil
		}
	}
	return true, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendEntry encodes an entry that comes after the one whose path is prev.
func appendEntry(b []byte, prev string, e *Entry) []byte {
	shared := 0
	for shared < min(len(prev), len(e.Path)) && prev[shared] == e.Path[shared] {
		shared++
	}
	b = binary.AppendUvarint(b, uint64(shared))
	b = appendString(b, e.Path[shared:])
	flags := entryFlags(e)
	b = append(b, byte(e.Type), flags)
	if flags&flagMode != 0 {
		b = binary.AppendUvarint(b, uint64(e.Mode))
	}
	if flags&flagOwner != 0 {
		b = binary.AppendVarint(b, int64(e.UID))
		b = binary.AppendVarint(b, int64(e.GID))
	}
	if flags&flagTime != 0 {
		b = binary.AppendVarint(b, e.ModTime.Unix())
	}
	if flags&flagNanos != 0 {
		b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	}
	if flags&flagSize != 0 {
		b = binary.AppendUvarint(b, uint64(e.Size))
	}
	switch e.Type {
	case Symlink, Hardlink:
		b = appendString(b, e.Linkname)
	case Char, Block:
		b = binary.AppendVarint(b, int64(e.Devmajor))
		b = binary.AppendVarint(b, int64(e.Devminor))
	}
	if flags&flagDigest != 0 {
		b = append(b, e.Sum[:]...)
	}
	if flags&flagXattrs != 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
		for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
			b = appendString(b, k)
			b = appendString(b, e.Xattrs[k])
		}
	}
	return b
}

func entryFlags(e *Entry) byte {
	var flags byte
	set := func(on bool, f byte) {
		if on {
			flags |= f
		}
	}
	set(e.Opaque, flagOpaque)
	set(e.Mode != 0, flagMode)
	set(e.UID != 0 || e.GID != 0, flagOwner)
	set(e.Size != 0, flagSize)
	set(!e.ModTime.IsZero() && e.ModTime.Unix() != 0, flagTime)
	set(!e.ModTime.IsZero() && e.ModTime.Nanosecond() != 0, flagNanos)
	set(e.Sum != Sum{}, flagDigest)
	set(len(e.Xattrs) > 0, flagXattrs)
	return flags
}

// ReadIndex decodes the size bytes that WriteTo wrote, or fails: what is cut, changed, out of order or of another version is an error. The entries
// stay where they are: r is read again when they are asked for, and what it says must not change.
func ReadIndex(r io.ReaderAt, size int64) (*Index, error) {
	rd := &indexReader{r: r, left: size - 4, sum: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	ix, err := rd.index()
	if err != nil {
		return nil, err
	}
	var sum [4]byte
	if n, err := r.ReadAt(sum[:], size-4); n < len(sum) {
		return nil, fmt.Errorf("reading a layer index: %w", err)
	}
	if binary.LittleEndian.Uint32(sum[:]) != rd.sum.Sum32() {
		return nil, errIndex
	}
	if err := ix.checkLinks(); err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	return ix, nil
}

// Unmarshal is ReadIndex of bytes, which must not be changed.
func Unmarshal(data []byte) (*Index, error) {
	return ReadIndex(bytes.NewReader(data), int64(len(data)))
}

// indexReader reads an encoded index from its beginning to its checksum.
type indexReader struct {
	r    io.ReaderAt
	left int64 // what has not been read
	off  int64 // of window
	// window is what has been read and not been decoded.
	window []byte
	sum    hash.Hash32
}

// readAhead is how much of an index is read at once.
const readAhead = 64 << 10

// more reads on; false where there is nothing more.
func (rd *indexReader) more() (bool, error) {
	if rd.left <= 0 {
		return false, nil
	}
	have := len(rd.window)
	n := int(min(rd.left, int64(max(readAhead, have))))
	rd.window = append(slices.Clip(rd.window), make([]byte, n)...)
	if m, err := rd.r.ReadAt(rd.window[have:], rd.off+int64(have)); m < n {
		return false, fmt.Errorf("reading a layer index: %w", cmp.Or(err, io.ErrUnexpectedEOF))
	}
	rd.sum.Write(rd.window[have:])
	rd.left -= int64(n)
	return true, nil
}

// decode calls f, again with more of the index where that ends too early.
func (rd *indexReader) decode(f func(d *decoder)) error {
	for {
		d := &decoder{data: rd.window}
		if f(d); !d.bad {
			rd.off += int64(len(rd.window) - len(d.data))
			rd.window = d.data
			return nil
		}
		if ok, err := rd.more(); err != nil || !ok {
			return cmp.Or(err, errIndex)
		}
	}
}

func (rd *indexReader) index() (*Index, error) {
	var version, n uint64
	err := rd.decode(func(d *decoder) {
		if string(d.bytes(uint64(len(indexMagic)))) != indexMagic {
			d.fail()
		}
		version, n = d.uvarint(), d.uvarint()
	})
	if err != nil {
		return nil, err
	}
	// An entry takes four bytes at least.
	if version != indexVersion || n > uint64(rd.left+int64(len(rd.window)))/4 {
		return nil, fmt.Errorf("layer index of version %d: %w", version, errIndex)
	}
	ix, err := rd.entries(int(n))
	if err != nil {
		return nil, err
	}
	var count uint64
	err = rd.decode(func(d *decoder) { count = d.uvarint() })
	for i := uint64(0); i < count && err == nil; i++ {
		err = rd.decode(func(d *decoder) {
			name, content := d.str(), d.str()
			ix.names[name] = []byte(content)
		})
	}
	if err == nil && (len(rd.window) > 0 || rd.left > 0) {
		err = errIndex
	}
	return ix, err
}

// entries reads n entries, which must be in order.
func (rd *indexReader) entries(n int) (*Index, error) {
	start := rd.off
	l := &List{src: io.NewSectionReader(rd.r, start, math.MaxInt64-start)}
	b := buildIndex(l)
	paths := 0
	for range n {
		var e Entry
		off := rd.off - start
		if err := rd.decode(func(d *decoder) { e = Entry{}; d.entry(&e, l.last) }); err != nil {
			return nil, err
		}
		if paths += len(e.Path); paths > maxPathBytes || l.n > 0 && compare(l.last, e.Path) >= 0 {
			return nil, errIndex
		}
		if l.n%blockEntries == 0 {
			l.blocks = append(l.blocks, blockAt{off, e.Path})
		}
		l.n, l.last, l.end = l.n+1, e.Path, rd.off-start
		b.note(&e)
	}
	return b.ix, nil
}

// decoder reads from the front of data; once something does not fit, bad is set and all that follows is zero.
type decoder struct {
	data []byte
	bad  bool
}

func (d *decoder) fail() { d.bad, d.data = true, nil }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.data = d.data[n:]
	return v
}

// uint32 reads a number that is written as any signed one is.
func (d *decoder) uint32() uint32 {
	v := d.varint()
	if v < 0 || v > math.MaxUint32 {
		d.fail()
	}
	return uint32(v)
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.data)) {
		d.fail()
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) str() string { return string(d.bytes(d.uvarint())) }

// count reads the number of things that take at least size bytes each, so that a false one cannot ask for much memory.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.data)/size) {
		d.fail()
		return 0
	}
	return int(n)
}

// entry decodes the entry that follows the one whose path is prev.
func (d *decoder) entry(e *Entry, prev string) {
	shared := d.uvarint()
	rest := d.bytes(d.uvarint())
	head := d.bytes(2)
	if d.bad || shared > uint64(len(prev)) || len(rest) > maxPath {
		d.fail()
		return
	}
	e.Path = prev[:shared] + string(rest)
	if !isClean(e.Path) || len(e.Path) >= maxPath {
		d.fail()
		return
	}
	e.Type = Type(head[0])
	d.fields(e, head[1])
}

func (d *decoder) fields(e *Entry, flags byte) {
	e.Opaque = flags&flagOpaque != 0
	if flags&flagMode != 0 {
		e.Mode = int64(d.uvarint())
	}
	if flags&flagOwner != 0 {
		e.UID, e.GID = int(d.varint()), int(d.varint())
	}
	var sec, nsec int64
	if flags&flagTime != 0 {
		sec = d.varint()
	}
	if flags&flagNanos != 0 {
		nsec = int64(d.uvarint())
	}
	if flags&flagSize != 0 {
		e.Size = int64(d.uvarint())
	}
	switch e.Type {
	case Symlink, Hardlink:
		e.Linkname = d.str()
	case Char, Block:
		e.Devmajor, e.Devminor = d.uint32(), d.uint32()
	case File, Dir, Fifo, Whiteout:
	default:
		d.fail()
	}
	if e.Type != Hardlink && e.Type != Whiteout {
		e.ModTime = time.Unix(sec, nsec).UTC()
	}
	if flags&flagDigest != 0 {
		copy(e.Sum[:], d.bytes(uint64(len(e.Sum))))
	}
	if flags&flagXattrs != 0 {
		n := d.count(2)
		e.Xattrs = make(map[string]string, n)
		for range n {
			k := d.str()
			e.Xattrs[k] = d.str()
		}
	}
	if e.Mode < 0 || e.Size < 0 || nsec < 0 || nsec > 999_999_999 {
		d.fail()
	}
}
