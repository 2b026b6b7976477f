package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// checkedFile is an open regular file that reports at its end when it is not the one that was seen. It is a bare descriptor: an
// os.File costs three more system calls, which count where there are many small files.
type checkedFile struct {
	fd   int
	name string
	want fileStat
}

// buffers are those of WriteTo.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, 128<<10)
	return &p
}

func (b *buffers) put(p *[]byte) { b.pool.Put(p) }

// Read implements io.Reader.
func (c *checkedFile) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := retry(func() (int, error) { return unix.Read(c.fd, p) })
	if err != nil {
		return 0, &fs.PathError{Op: "read", Path: c.name, Err: err}
	}
	if n == 0 {
		if err := c.check(); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	return n, nil
}

// Close implements io.Closer.
func (c *checkedFile) Close() error {
	fd := c.fd
	c.fd = -1
	if fd < 0 {
		return fs.ErrClosed
	}
	return unix.Close(fd)
}

// copyTo writes the content to w by way of buf, until ctx ends.
func (c *checkedFile) copyTo(ctx context.Context, w io.Writer, buf []byte) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := c.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
}

func (c *checkedFile) check() error {
	var st unix.Stat_t
	if err := unix.Fstat(c.fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: c.name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || statOf(&st) != c.want {
		return fmt.Errorf("reading %s: it changed while it was being used", c.name)
	}
	return nil
}
