package inflate

import (
	"encoding/binary"
	"io"
)

// block reads the head of a block.
func (z *Reader) block() error {
	if z.final {
		z.final = false
		return z.trailer()
	}
	if err := z.need(inSlack / 2); err != nil {
		return err
	}
	z.refill()
	z.final = z.take(1) == 1
	switch z.take(2) {
	case 0:
		return z.stored()
	case 1:
		z.fixed()
	case 2:
		if err := z.dynamic(); err != nil {
			return err
		}
	default:
		return ErrCorrupt
	}
	if z.overrun() {
		return io.ErrUnexpectedEOF
	}
	z.state = (*Reader).decode
	return nil
}

// stored begins a block that is not compressed.
func (z *Reader) stored() error {
	z.toBytes()
	head := z.in[z.pos : z.pos+4]
	n := binary.LittleEndian.Uint16(head)
	if z.pos += 4; z.overrun() {
		return io.ErrUnexpectedEOF
	}
	if n != ^binary.LittleEndian.Uint16(head[2:]) {
		return ErrCorrupt
	}
	z.left = int(n)
	z.state = (*Reader).copyStored
	return nil
}

func (z *Reader) copyStored() error {
	if z.left == 0 {
		z.state = (*Reader).block
		return nil
	}
	if end, err := z.atEnd(); err != nil || end {
		if end {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	have := z.in[z.pos:]
	if z.end >= 0 {
		have = z.in[z.pos:z.end]
	}
	n := copy(z.out[z.w:outSize-outSlack], have[:min(len(have), z.left)])
	z.pos += n
	z.w += n
	z.left -= n
	return nil
}

// fixed sets the tables of a block that brings none.
func (z *Reader) fixed() {
	var lengths [maxSymbols]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	z.lit.build(lengths[:], litPrimary, z.symbols.lit[:])
	for i := range 32 {
		lengths[i] = 5
	}
	z.dist.build(lengths[:32], distPrimary, z.symbols.dist[:])
}

// dynamic reads the tables of a block (RFC 1951, 3.2.7). Everything fits in half of inSlack.
func (z *Reader) dynamic() error {
	nlit, ndist, ncode := int(z.take(5))+257, int(z.take(5))+1, int(z.take(4))+4
	if nlit > 286 || ndist > 30 {
		return ErrCorrupt
	}
	var lengths [maxSymbols + 32]uint8
	for i := range ncode {
		z.refill()
		lengths["\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"[i]] = uint8(z.take(3))
	}
	// The table of distances is free until it is made.
	if !z.dist.build(lengths[:19], distPrimary, z.symbols.code[:]) {
		return ErrCorrupt
	}
	clear(lengths[:19])
	for i := 0; i < nlit+ndist; {
		z.refill()
		e := z.dist.entries[z.bits&(1<<distPrimary-1)]
		if e == 0 {
			return ErrCorrupt
		}
		z.take(uint(e & lenMask))
		sym, again, what := e>>valueShift&0xff, uint(0), uint8(0)
		switch {
		case sym < 16:
			lengths[i] = uint8(sym)
			i++
			continue
		case sym == 16:
			if i == 0 {
				return ErrCorrupt
			}
			again, what = 3+z.take(2), lengths[i-1]
		case sym == 17:
			again = 3 + z.take(3)
		default:
			again = 11 + z.take(7)
		}
		if i+int(again) > nlit+ndist {
			return ErrCorrupt
		}
		for range again {
			lengths[i] = what
			i++
		}
	}
	if !z.lit.build(lengths[:nlit], litPrimary, z.symbols.lit[:]) || !z.dist.build(lengths[nlit:nlit+ndist], distPrimary, z.symbols.dist[:]) {
		return ErrCorrupt
	}
	return nil
}

// decode works through a block until its end, until out is full, or until there is no more input in the buffer. Each round uses 16 bytes of input
// at most, and writes three literals and a match, whose last word may stand over.
func (z *Reader) decode() error {
	if err := z.need(inSlack / 2); err != nil {
		return err
	}
	var (
		in, out   = z.in, z.out
		pos, w    = z.pos, z.w
		b, n      = z.bits, z.nbits
		lit, dist = z.lit.entries, z.dist.entries
		litMore   = uint64(1)<<z.lit.second - 1
		distMore  = uint64(1)<<z.dist.second - 1
		err       error
	)
	for pos < len(in)-16 && w < outSize-outSlack {
		b |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
		pos += int(63-n) >> 3
		n |= 56
		e := lit[b&(1<<litPrimary-1)]
		if e >= isLiteral {
			b >>= e & lenMask
			n -= uint(e & lenMask)
			out[w] = byte(e >> valueShift)
			w++
			e = lit[b&(1<<litPrimary-1)]
			if e >= isLiteral {
				b >>= e & lenMask
				n -= uint(e & lenMask)
				out[w] = byte(e >> valueShift)
				w++
				e = lit[b&(1<<litPrimary-1)]
			}
			b |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
			pos += int(63-n) >> 3
			n |= 56
		}
		b >>= e & lenMask
		n -= uint(e & lenMask)
		if e&isTable != 0 {
			e = lit[uint64(e>>valueShift&0xffff)+b&litMore]
			b >>= e & lenMask
			n -= uint(e & lenMask)
		}
		if e >= isLiteral {
			out[w] = byte(e >> valueShift)
			w++
			continue
		}
		if e&isValue == 0 {
			if e&isEnd == 0 {
				err = ErrCorrupt
			}
			z.state = (*Reader).block
			break
		}
		extra := e >> extraShift & 15
		length := int(e>>valueShift&0xffff) + int(b&(1<<extra-1))
		b >>= extra
		n -= uint(extra)
		e = dist[b&(1<<distPrimary-1)]
		b >>= e & lenMask
		n -= uint(e & lenMask)
		if e&isTable != 0 {
			e = dist[uint64(e>>valueShift&0xffff)+b&distMore]
			b >>= e & lenMask
			n -= uint(e & lenMask)
		}
		extra = e >> extraShift & 15
		d := int(e>>valueShift&0xffff) + int(b&(1<<extra-1))
		b >>= extra
		n -= uint(extra)
		if e&isValue == 0 || d > w-z.start {
			err = ErrCorrupt
			break
		}
		repeat(out, w, d, length)
		w += length
	}
	z.pos, z.w, z.bits, z.nbits = pos, w, b, n
	if err == nil && z.overrun() {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// repeat writes n bytes at w that are those d before, of which the last may be among those it writes. It writes up to 15 bytes more.
func repeat(out []byte, w, d, n int) {
	if d >= 8 {
		for end := w + n; w < end; w += 8 {
			binary.LittleEndian.PutUint64(out[w:], binary.LittleEndian.Uint64(out[w-d:]))
		}
		return
	}
	if d == 1 {
		word := uint64(out[w-1]) * 0x0101010101010101
		for end := w + n; w < end; w += 8 {
			binary.LittleEndian.PutUint64(out[w:], word)
		}
		return
	}
	for end := w + n; w < end; w++ {
		out[w] = out[w-d]
	}
}
