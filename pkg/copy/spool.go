package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/spill"
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

func newSpool(temp func() (*os.File, error)) (*spool, error) {
	if temp == nil {
		temp = spill.SystemTemp
	}
	f, err := temp()
	if err != nil {
		return nil, err
	}
	return &spool{f: f}, nil
}

// add puts a file of the archive at the end and returns where it is.
func (s *spool) add(r io.Reader, size int64) (at int64, err error) {
	n, err := io.CopyN(s.f, r, size)
	if err != nil {
		return 0, fmt.Errorf("reading %d bytes: %w", size, err)
	}
	at = s.end
	s.end += n
	return at, nil
}

func (s *spool) section(n *node) io.Reader { return io.NewSectionReader(s.f, n.content.at, n.Size) }

func (s *spool) open(n *node) (io.ReadCloser, error) { return io.NopCloser(s.section(n)), nil }

func (s *spool) digest(ctx context.Context, n *node) (digest.Digest, error) {
	return digest.FromReader(layer.Until(ctx, s.section(n)))
}

func (s *spool) close() error { return s.f.Close() }
