package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// Limits bounds what a layer may cost to read.
type Limits struct {
	// Bytes is the most that may come out of the decompressor, and the most that all files together may hold (a sparse file
	// holds more than its part of the archive); Entries the most paths. 0 is the default: 20 GiB and 2 million.
	Bytes, Entries int64
	// Temp makes the nameless file in which what is known of very many entries lies; nil makes it in the system's directory for temporary files.
	Temp func() (*os.File, error)
}

const (
	defaultBytes   = 20 << 30
	defaultEntries = 2_000_000
	// maxMeta is the most bytes that the names, link targets and attributes of one layer may take.
	maxMeta = 128 << 20
	// readChunk and readChunks are how far decompression runs ahead of unpacking.
	readChunk  = 256 << 10
	readChunks = 8
)

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = defaultBytes
	}
	if l.Entries <= 0 {
		l.Entries = defaultEntries
	}
	return l
}

// ErrLimit is wrapped by the errors of layers that cost more than Limits, or this package's own bounds, allow.
var ErrLimit = errors.New("the layer exceeds a limit")

// stream is the uncompressed tar of a layer: bounded, hashed as it is read, decompressed ahead in a goroutine of its own.
type stream struct {
	done  <-chan struct{}
	cause func() error
	raw   io.Reader
	dec   io.ReadCloser
	left  int64
	hash  hash.Hash
	full  chan []byte
	empty chan []byte
	stop  chan struct{}
	cur   []byte // what of buf has not been read
	buf   []byte
	// decErr is how decompression ended; set before full is closed.
	decErr error
	err    error
}

// newStream starts to decompress r. Close must be called.
func newStream(ctx context.Context, r io.Reader, max int64) (*stream, error) {
	dec, _, err := Decompress(r)
	if err != nil {
		return nil, err
	}
	s := &stream{done: ctx.Done(), cause: ctx.Err, raw: r, dec: dec, left: max, hash: sha256.New(), full: make(chan []byte, readChunks),
		empty: make(chan []byte, readChunks), stop: make(chan struct{})}
	go s.run()
	return s, nil
}

// run decompresses until the end, an error, or stop.
func (s *stream) run() {
	defer close(s.full)
	made := 0
	for {
		var b []byte
		select {
		case b = <-s.empty:
		default:
			if made++; made <= readChunks {
				b = make([]byte, readChunk)
				break
			}
			select {
			case b = <-s.empty:
			case <-s.stop:
				return
			}
		}
		n, err := fill(s.dec, b[:readChunk])
		if n > 0 {
			select {
			case s.full <- b[:n]:
			case <-s.stop:
				return
			}
		}
		if err != nil {
			s.decErr = err
			return
		}
	}
}

// fill is io.ReadFull but for the error, which is the reader's own: a stream that ends is told from one that was cut.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

func (s *stream) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	for len(s.cur) == 0 {
		if s.buf != nil {
			s.empty <- s.buf
			s.buf = nil
		}
		if s.err = s.cause(); s.err != nil {
			return 0, s.err
		}
		select {
		case b, ok := <-s.full:
			if !ok {
				s.err = s.decErr
				return 0, s.err
			}
			if s.left -= int64(len(b)); s.left < 0 {
				s.err = fmt.Errorf("decompressed layer: %w", ErrLimit)
				return 0, s.err
			}
			s.hash.Write(b)
			s.cur, s.buf = b, b
		case <-s.done:
			s.err = s.cause()
			return 0, s.err
		}
	}
	n := copy(p, s.cur)
	s.cur = s.cur[n:]
	return n, nil
}

// verify reads what is left, after the end of the archive and after the end of the compressed stream, and checks the DiffID.
func (s *stream) verify(want digest.Digest) error {
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, s.raw); err != nil {
		return err
	}
	if got := Sum(s.hash.Sum(nil)).Digest(); got != want {
		return fmt.Errorf("the content has DiffID %s, not %s", got, want)
	}
	return nil
}

// Close ends the goroutine; r is not read any more when it returns.
func (s *stream) Close() {
	close(s.stop)
	for range s.full {
	}
	s.dec.Close()
}
