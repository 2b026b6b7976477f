package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow is the most memory a stream's dictionary may ask for: what zstd --long and xz -9 use.
const maxWindow = 128 << 20

// Decompress recognises how r is compressed by its first bytes and returns what is in it, and the kind: "gzip", "zstd",
// "bzip2", "xz" or "uncompressed" (anything else). Everything is decoded in this process; no program is run. Closing does
// not close r.
func Decompress(r io.Reader) (rc io.ReadCloser, kind string, err error) {
	br := bufio.NewReaderSize(r, 128<<10)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		kind = gzipType
		rc, err = gzip.NewReader(br)
	case isZstd(head):
		kind = zstdType
		var z *zstd.Decoder
		z, err = zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))
		if err == nil {
			rc = z.IOReadCloser()
		}
	case bytes.HasPrefix(head, []byte("BZh")):
		kind = "bzip2"
		rc = io.NopCloser(bzip2.NewReader(br))
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		kind = "xz"
		if err = checkXZ(br); err == nil {
			var x *xz.Reader
			if x, err = xz.NewReader(br); err == nil {
				rc = io.NopCloser(x)
			}
		}
	default:
		return io.NopCloser(br), noneType, nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading %s stream: %w", kind, err)
	}
	return rc, kind, nil
}

// isZstd knows frames and the skippable frames that may come first (RFC 8878, 3.1).
func isZstd(head []byte) bool {
	if len(head) < 4 {
		return false
	}
	magic := binary.LittleEndian.Uint32(head)
	return magic == 0xfd2fb528 || magic&^0xf == 0x184d2a50
}

// checkXZ refuses a stream whose first block asks for a larger dictionary than any preset of xz does, as the library has no
// limit. The block header (xz file format, 3.1): size, flags, compressed and uncompressed size if the flags say so, then
// filters as id, length of properties, properties; for LZMA2 (0x21) those are one byte, the dictionary's size as (2 | bit 0)
// << (bits 1-5 + 11).
func checkXZ(br *bufio.Reader) error {
	head, err := br.Peek(12 + 64)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(head) < 12+8 {
		return nil
	}
	b := head[12:]
	i := 2
	for _, flag := range []byte{0x40, 0x80} {
		if b[1]&flag == 0 {
			continue
		}
		for i < len(b) && b[i]&0x80 != 0 {
			i++
		}
		i++
	}
	if b[1]&3 != 0 || i+2 >= len(b) || b[i] != 0x21 || b[i+1] != 1 {
		return nil
	}
	bits := b[i+2]
	if bits > 40 || (2|uint64(bits&1))<<(bits/2+11) > maxWindow {
		return fmt.Errorf("the dictionary is larger than %d MiB", maxWindow>>20)
	}
	return nil
}
