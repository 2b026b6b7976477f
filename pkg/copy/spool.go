package copy

import (
	"errors"
	"fmt"
	"io"
	"os"
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

func (s *spool) add(r io.Reader, size int64) (*io.SectionReader, error) {
	n, err := io.CopyN(s.f, r, size)
	if err != nil {
		return nil, fmt.Errorf("reading %d bytes: %w", size, err)
	}
	sec := io.NewSectionReader(s.f, s.end, n)
	s.end += n
	return sec, nil
}

func (s *spool) close() error { return s.f.Close() }
