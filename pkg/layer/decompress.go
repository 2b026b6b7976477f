package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow is the most memory a stream's dictionary may ask for: what zstd --long and xz -9 use.
const maxWindow = 128 << 20

// Decompress recognises how r is compressed by its first bytes and returns what is in it, and the kind: "gzip", "zstd", "bzip2", "xz" or
// "uncompressed" (anything else). Everything is decoded in this process; no program is run. Closing does not close r.
func Decompress(r io.Reader) (rc io.ReadCloser, kind string, err error) {
	br := bufio.NewReaderSize(r, 128<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		kind = gzipType
		rc, err = gzip.NewReader(br)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		kind = zstdType
		var z *zstd.Decoder
		if z, err = zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1)); err == nil {
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

// checkXZ refuses a stream whose first block asks for a larger dictionary than any preset of xz does, as the library has no limit.
// The block header (xz file format, 3.1): size, flags, compressed and uncompressed size if the flags say so, then filters as id,
// length of properties, properties; for LZMA2 (0x21) those are one byte, the dictionary's size as (2 | bit 0) << (bits 1-5 + 11).
func checkXZ(br *bufio.Reader) error {
	head, err := br.Peek(12 + 64)
	if err != nil && err != io.EOF {
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
