// Package inflate decompresses gzip (RFC 1952, RFC 1951), about twice as fast as the libraries do. Reading base images is mostly this.
//
// What makes it fast: input and output are slices with room to spare at their ends, so that the loop over symbols (decode.go) checks neither for
// their ends at each byte; 56 bits are loaded at once; and tables give a symbol with its extra bits in one look-up (huffman.go).
package inflate

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// The errors of damaged streams. One that ends early is io.ErrUnexpectedEOF.
var (
	ErrHeader   = errors.New("gzip: invalid header")
	ErrChecksum = errors.New("gzip: invalid checksum")
	ErrCorrupt  = errors.New("gzip: corrupt data")
)

const (
	window = 32 << 10
	// outSize is the output buffer: the window, what is decoded before it is handed out, and room for what one round of decode may write too much.
	outSize  = window + 128<<10 + outSlack
	outSlack = 320
	inSize   = 64 << 10
	// inSlack is what one round of decode, or of reading the head of a block, may read without asking. At the end of the input so many zeros follow it.
	inSlack = 1024
	// unread is how many bytes before the place in the input may be gone back to.
	unread = 8
	// trailerSize is that of checksum and length, which end a member.
	trailerSize = 8
)

// Reader reads what is in gzip members that follow each other.
type Reader struct {
	r io.Reader

	in      []byte // buffered input
	pos     int    // what of it is in bits, or used up
	end     int    // where the input ends in it, once that is known; else -1
	bits    uint64
	nbits   uint // how many of bits count; what is above them is of the bytes at pos
	readErr error

	out   []byte
	given int // what of out was handed out
	w     int // what of out is written
	start int // where the member begins in out: distances go no further

	state func(*Reader) error
	final bool // the block is the last of its member
	left  int  // what of a stored block is left
	crc   uint32
	size  uint32
	sum   int // what of out is in crc
	err   error

	symbols   *meanings
	lit, dist table
}

// NewReader reads the head of the first member. r may be read further than the last member's end.
func NewReader(r io.Reader) (*Reader, error) {
	z := &Reader{r: r, in: make([]byte, unread, inSize+inSlack), pos: unread, end: -1, out: make([]byte, outSize), symbols: newMeanings()}
	if err := z.header(); err != nil {
		return nil, err
	}
	z.state = (*Reader).block
	return z, nil
}

// Read implements io.Reader.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for z.given == z.w {
		if z.err != nil {
			return 0, z.err
		}
		z.more()
	}
	n := copy(p, z.out[z.given:z.w])
	z.given += n
	return n, nil
}

// Close implements io.Closer. There is nothing to close.
func (z *Reader) Close() error { return nil }

// more decodes until the buffer is full, or the end.
func (z *Reader) more() {
	if drop := z.w - window; drop > 0 {
		copy(z.out, z.out[drop:z.w])
		z.w, z.given, z.start, z.sum = window, window, max(0, z.start-drop), window
	}
	for z.err == nil && z.w < outSize-outSlack {
		kept := z.w
		if z.err = z.state(z); z.err != nil && z.err != io.EOF {
			z.w = kept // what came out last may be made of the zeros after the end
			if z.end >= 0 && z.pos-int(z.nbits>>3) > z.end-trailerSize {
				z.err = io.ErrUnexpectedEOF
			}
			return
		}
	}
	z.check()
}

// check takes what was written into the checksum.
func (z *Reader) check() {
	z.crc = crc32.Update(z.crc, crc32.IEEETable, z.out[z.sum:z.w])
	z.size += uint32(z.w - z.sum)
	z.sum = z.w
}

// need makes sure that n bytes follow in the input, at most inSlack. At its end they are zeros.
func (z *Reader) need(n int) error {
	for len(z.in)-z.pos < n {
		if z.end >= 0 {
			return io.ErrUnexpectedEOF
		}
		from := z.pos - unread
		k := copy(z.in, z.in[from:])
		z.in, z.pos = z.in[:k], unread
		if z.readErr != nil {
			if z.readErr != io.EOF {
				return z.readErr
			}
			z.end = k
			z.in = z.in[:k+inSlack]
			clear(z.in[k:])
			continue
		}
		var m int
		m, z.readErr = z.r.Read(z.in[k : cap(z.in)-inSlack])
		z.in = z.in[:k+m]
	}
	return nil
}

// overrun reports whether more was used than there is.
func (z *Reader) overrun() bool { return z.end >= 0 && z.pos-int(z.nbits>>3) > z.end }

// refill loads bits until there are 56 at least; need must have been called.
func (z *Reader) refill() {
	z.bits |= binary.LittleEndian.Uint64(z.in[z.pos:]) << (z.nbits & 63)
	z.pos += int(63-z.nbits) >> 3
	z.nbits |= 56
}

// take returns n bits, at most 32, of those loaded.
func (z *Reader) take(n uint) uint {
	v := uint(z.bits & (1<<n - 1))
	z.bits >>= n
	z.nbits -= n
	return v
}

// toBytes goes back to the first whole byte that is not used.
func (z *Reader) toBytes() {
	z.pos -= int(z.nbits >> 3)
	z.bits, z.nbits = 0, 0
}

// next returns the next byte.
func (z *Reader) next() (byte, error) {
	if err := z.need(1); err != nil {
		return 0, err
	}
	c := z.in[z.pos]
	if z.pos++; z.overrun() {
		return 0, io.ErrUnexpectedEOF
	}
	return c, nil
}

// atEnd reports whether nothing follows.
func (z *Reader) atEnd() (bool, error) {
	if err := z.need(1); err != nil {
		return false, err
	}
	return z.end >= 0 && z.pos >= z.end, nil
}

// The flags of a member's head (RFC 1952, 2.3.1).
const (
	flagCRC     = 1 << 1
	flagExtra   = 1 << 2
	flagName    = 1 << 3
	flagComment = 1 << 4
)

// header reads the head of a member. What it says is of no interest here; an empty input is io.EOF.
func (z *Reader) header() error {
	if end, err := z.atEnd(); err != nil || end {
		if end {
			err = io.EOF
		}
		return err
	}
	var crc uint32
	next := func() (byte, error) {
		c, err := z.next()
		crc = crc32.Update(crc, crc32.IEEETable, []byte{c})
		return c, err
	}
	var head [10]byte
	for i := range head {
		var err error
		if head[i], err = next(); err != nil {
			return err
		}
	}
	if head[0] != 0x1f || head[1] != 0x8b || head[2] != 8 {
		return ErrHeader
	}
	skip := 0
	if head[3]&flagExtra != 0 {
		lo, err := next()
		if err != nil {
			return err
		}
		hi, err := next()
		if err != nil {
			return err
		}
		skip = int(lo) | int(hi)<<8
	}
	for range skip {
		if _, err := next(); err != nil {
			return err
		}
	}
	for _, flag := range []byte{flagName, flagComment} {
		for c := byte(1); head[3]&flag != 0 && c != 0; {
			var err error
			if c, err = next(); err != nil {
				return err
			}
		}
	}
	if head[3]&flagCRC != 0 {
		want := uint16(crc)
		lo, err := z.next()
		if err != nil {
			return err
		}
		hi, err := z.next()
		if err != nil {
			return err
		}
		if uint16(lo)|uint16(hi)<<8 != want {
			return ErrHeader
		}
	}
	z.crc, z.size, z.sum, z.start = 0, 0, z.w, z.w
	return nil
}

// trailer reads the end of a member, and the head of the next one if there is one.
func (z *Reader) trailer() error {
	z.check()
	z.toBytes()
	var tail [trailerSize]byte
	for i := range tail {
		var err error
		if tail[i], err = z.next(); err != nil {
			return err
		}
	}
	if binary.LittleEndian.Uint32(tail[:]) != z.crc || binary.LittleEndian.Uint32(tail[4:]) != z.size {
		return ErrChecksum
	}
	z.state = (*Reader).block
	return z.header()
}
