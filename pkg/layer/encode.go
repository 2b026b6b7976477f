package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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

// Marshal encodes an index; Unmarshal reads it back.
func (ix *Index) Marshal() []byte {
	b := make([]byte, 0, 64+72*len(ix.entries))
	b = append(b, indexMagic...)
	b = binary.AppendUvarint(b, indexVersion)
	b = binary.AppendUvarint(b, uint64(len(ix.entries)))
	var prev *Entry = &Entry{}
	for i := range ix.entries {
		e := &ix.entries[i]
		b = appendEntry(b, prev, e)
		prev = e
	}
	b = binary.AppendUvarint(b, uint64(len(ix.names)))
	for _, name := range slices.Sorted(maps.Keys(ix.names)) {
		b = appendString(b, name)
		b = appendString(b, string(ix.names[name]))
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendEntry(b []byte, prev, e *Entry) []byte {
	shared := 0
	for shared < min(len(prev.Path), len(e.Path)) && prev.Path[shared] == e.Path[shared] {
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

// Unmarshal decodes what Marshal wrote, or fails: what is cut, changed, out of order or of another version is an error.
func Unmarshal(data []byte) (*Index, error) {
	if len(data) < len(indexMagic)+4 || string(data[:len(indexMagic)]) != indexMagic {
		return nil, errIndex
	}
	body, sum := data[:len(data)-4], binary.LittleEndian.Uint32(data[len(data)-4:])
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return nil, errIndex
	}
	d := &decoder{data: body[len(indexMagic):]}
	if v := d.uvarint(); v != indexVersion {
		return nil, fmt.Errorf("layer index of version %d: %w", v, errIndex)
	}
	n := d.count(4)
	entries := make([]Entry, 0, n)
	for range n {
		entries = append(entries, Entry{})
		d.entry(entries)
		if d.bad {
			return nil, errIndex
		}
	}
	names := map[string][]byte{}
	for range d.count(2) {
		name, content := d.str(), d.str()
		names[name] = []byte(content)
	}
	if d.bad || len(d.data) != 0 {
		return nil, errIndex
	}
	if err := checkLinks(entries); err != nil {
		return nil, fmt.Errorf("%w: %w", errIndex, err)
	}
	return newIndex(entries, names), nil
}

// decoder reads from the front of data; once something does not fit, bad is set and all that follows is zero.
type decoder struct {
	data  []byte
	bad   bool
	paths int
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

// entry decodes the last of entries.
func (d *decoder) entry(entries []Entry) {
	e := &entries[len(entries)-1]
	prev := ""
	if len(entries) > 1 {
		prev = entries[len(entries)-2].Path
	}
	shared := d.uvarint()
	rest := d.bytes(d.uvarint())
	head := d.bytes(2)
	if d.bad || shared > uint64(len(prev)) || len(rest) > maxPath {
		d.fail()
		return
	}
	e.Path = prev[:shared] + string(rest)
	d.paths += len(e.Path)
	if !isClean(e.Path) || len(e.Path) >= maxPath || d.paths > maxPathBytes || (prev != "" && compare(prev, e.Path) >= 0) {
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
