package layer

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression types, as BuildKit's exporters name them.
const (
	gzipType    = "gzip"
	zstdType    = "zstd"
	noneType    = "uncompressed"
	estargzType = "estargz"
)

const (
	// gzipBlock is what is compressed as one piece, gzipDict what a piece may refer to of the one before. They decide the
	// bytes of every layer: a change of either changes all blobs (but no DiffID).
	gzipBlock = 1 << 20
	gzipDict  = 32 << 10
	// gzipLevel is klauspost's. Against the standard library's default, which BuildKit uses: 1.6 % larger on prose, 2 % on
	// programs, 3 % on source text, in half to a third of the time; 7 would be 0.1 to 1.5 % larger in two thirds of the
	// time.
	gzipLevel  = 6
	maxWorkers = 8
)

// newCompressor returns the compressor of c over dst and the media type of what it writes.
func newCompressor(dst io.Writer, c Compression) (io.WriteCloser, string, error) {
	switch c.Type {
	case "", gzipType, estargzType:
		if c.Level < 0 || c.Level > 9 {
			return nil, "", fmt.Errorf("gzip has no level %d", c.Level)
		}
		level := c.Level
		if level == 0 {
			level = gzipLevel
		}
		if c.Type == estargzType {
			return newEstargz(dst, level), ocispec.MediaTypeImageLayerGzip, nil
		}
		z := newGzipWriter(dst, level)
		if c.codecs != nil {
			z.idle = &c.codecs[level]
		}
		return z, ocispec.MediaTypeImageLayerGzip, nil
	case zstdType:
		if c.Level < 0 || c.Level > 22 {
			return nil, "", fmt.Errorf("zstd has no level %d", c.Level)
		}
		level := zstd.SpeedDefault
		if c.Level != 0 {
			level = zstd.EncoderLevelFromZstd(c.Level)
		}
		// With a concurrency of 1 no goroutine outlives a writer that is never closed.
		z, err := zstd.NewWriter(dst, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
		return z, ocispec.MediaTypeImageLayerZstd, err
	case noneType:
		return nopCloser{dst}, ocispec.MediaTypeImageLayer, nil
	}
	return nil, "", fmt.Errorf("unknown compression %q: gzip, zstd, estargz and uncompressed are known", c.Type)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// gzipWriter writes one gzip member (RFC 1952) whose deflate stream is made of blocks compressed at the same time, each with
// the end of the one before as its dictionary. The bytes depend on the input alone: not on the number of processors, nor on
// how the input was cut into writes. It is not pgzip because that keeps a goroutine until it is closed, which a layer that
// fails never is; here the caller of Write hands on what is ready, and what is left behind is garbage.
type gzipWriter struct {
	dst   io.Writer
	level int
	block []byte
	dict  []byte
	crc   uint32
	size  uint32
	begun bool
	err   error
	// pending are the blocks being compressed, in order.
	pending []chan []byte
	// workers bounds pending; idle keeps the codecs of blocks that are done, free their buffers.
	workers int
	idle    *sync.Pool
	free    chan []byte
}

// codecs are flate.Writers by level.
type codecs [10]sync.Pool

func newGzipWriter(dst io.Writer, level int) *gzipWriter {
	n := min(runtime.GOMAXPROCS(0), maxWorkers)
	return &gzipWriter{dst: dst, level: level, workers: n, idle: &sync.Pool{}, free: make(chan []byte, 2*n+2)}
}

func (z *gzipWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && z.err == nil {
		k := min(len(p), gzipBlock-len(z.block))
		if z.block == nil && k == len(p) && k < 64<<10 {
			z.block = make([]byte, 0, 64<<10)
		} else if cap(z.block) < gzipBlock && len(z.block)+k > cap(z.block) {
			z.block = append(z.buffer(), z.block...)
		}
		z.block = append(z.block, p[:k]...)
		z.crc = crc32.Update(z.crc, crc32.IEEETable, p[:k])
		z.size += uint32(k)
		p = p[k:]
		if len(z.block) == gzipBlock {
			z.start(false)
		}
	}
	if z.err != nil {
		return 0, z.err
	}
	return n, nil
}

func (z *gzipWriter) buffer() []byte {
	select {
	case b := <-z.free:
		return b[:0]
	default:
		return make([]byte, 0, gzipBlock+gzipBlock/64)
	}
}

func (z *gzipWriter) release(b []byte) {
	if cap(b) < gzipBlock {
		return
	}
	select {
	case z.free <- b:
	default:
	}
}

// start hands the block to a worker, once there is one.
func (z *gzipWriter) start(last bool) {
	for len(z.pending) >= z.workers && z.err == nil {
		z.next()
	}
	block, dict := z.block, z.dict
	if !last {
		z.dict = append([]byte(nil), block[max(0, len(block)-gzipDict):]...)
		z.block = z.buffer()
	}
	done := make(chan []byte, 1)
	z.pending = append(z.pending, done)
	var out sink
	if len(block) < gzipBlock/4 {
		out = make(sink, 0, len(block)/2+64)
	} else {
		out = z.buffer()
	}
	go func() {
		defer z.release(block)
		fw, kept := z.idle.Get().(*flate.Writer)
		if kept {
			fw.ResetDict(&out, dict)
		} else {
			// The level was checked; there is no other error.
			fw, _ = flate.NewWriterDict(&out, z.level, dict)
		}
		// A sink takes everything.
		_, _ = fw.Write(block)
		if last {
			_ = fw.Close()
		} else {
			_ = fw.Flush()
		}
		z.idle.Put(fw)
		done <- out
	}()
}

type sink []byte

func (s *sink) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}

// next writes out the oldest block.
func (z *gzipWriter) next() {
	out := <-z.pending[0]
	z.pending = z.pending[1:]
	if !z.begun {
		z.begun = true
		// No name, no time, an unknown system (255): as the standard library and BuildKit have it.
		z.write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255})
	}
	z.write(out)
	z.release(out)
}

func (z *gzipWriter) write(p []byte) {
	if z.err == nil {
		_, z.err = z.dst.Write(p)
	}
}

// Close ends the stream; dst is left open.
func (z *gzipWriter) Close() error {
	z.start(true)
	for len(z.pending) > 0 {
		z.next()
	}
	tail := binary.LittleEndian.AppendUint32(nil, z.crc)
	z.write(binary.LittleEndian.AppendUint32(tail, z.size))
	return z.err
}
