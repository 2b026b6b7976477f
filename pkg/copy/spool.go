package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

var errTooLarge = errors.New("the archive unpacks to more bytes than allowed")

// bounded fails when more is read than is left.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// spool keeps the content of an archive in a file without a name until the layer is written.
type spool struct {
	f   *os.File
	end int64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "unpack-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &spool{f: f}, nil
}

func (s *spool) add(r io.Reader, size int64) (*spooled, error) {
	n, err := io.CopyN(s.f, r, size)
	if err != nil {
		return nil, fmt.Errorf("reading %d bytes: %w", size, err)
	}
	at := s.end
	s.end += n
	return &spooled{s.f, at, n}, nil
}

// spooled is a stretch of a spool, a file of the archive.
type spooled struct {
	f       *os.File
	at, len int64
}

func (s *spooled) open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(s.f, s.at, s.len)), nil
}

func (s *spooled) digest(ctx context.Context) (digest.Digest, error) {
	return digest.FromReader(layer.Until(ctx, io.NewSectionReader(s.f, s.at, s.len)))
}

func (s *spool) close() error { return s.f.Close() }
