package main

import (
	"bytes"
	"context"
	"io"
	"os"
)

// A read of a pipe into which nobody writes, and a write to one from which nobody reads, end with no signal: Go starts them again. These two
// streams give up when the context ends, and leave the system call to the end of the process.

// stoppableReader is a stream of which no read goes on when ctx has ended.
type stoppableReader struct {
	ctx context.Context //nolint:containedctx // it lives for one command
	r   io.Reader
}

// stoppableWriter is a stream of which no write goes on when ctx has ended.
type stoppableWriter struct {
	ctx context.Context //nolint:containedctx // it lives for one command
	w   io.Writer
}

// stoppableIn is r where it can block for ever; a regular file, which cannot, stays what it is.
func stoppableIn(ctx context.Context, r io.Reader) io.Reader {
	if regular(r) {
		return r
	}
	return stoppableReader{ctx, r}
}

func stoppableOut(ctx context.Context, w io.Writer) io.Writer {
	if regular(w) {
		return w
	}
	return stoppableWriter{ctx, w}
}

func regular(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode().IsRegular()
}

// moved is how a read or write ended.
type moved struct {
	n   int
	err error
}

// Read implements io.Reader. The bytes go through a buffer of its own, because p is the caller's again when a read was given up.
func (s stoppableReader) Read(p []byte) (int, error) {
	buf := make([]byte, min(len(p), 64<<10))
	res, err := waitUntil(s.ctx, func() moved {
		n, err := s.r.Read(buf)
		return moved{n, err}
	})
	if err != nil {
		return 0, err
	}
	return copy(p, buf[:res.n]), res.err
}

// Write implements io.Writer.
func (s stoppableWriter) Write(p []byte) (int, error) {
	data := bytes.Clone(p)
	res, err := waitUntil(s.ctx, func() moved {
		n, err := s.w.Write(data)
		return moved{n, err}
	})
	if err != nil {
		return 0, err
	}
	return res.n, res.err
}

// waitUntil waits for f, and no longer than for the end of ctx.
func waitUntil(ctx context.Context, f func() moved) (moved, error) {
	if ctx.Err() != nil {
		return moved{}, context.Cause(ctx)
	}
	done := make(chan moved, 1)
	go func() { done <- f() }()
	select {
	case res := <-done:
		return res, nil
	case <-ctx.Done():
		return moved{}, context.Cause(ctx)
	}
}
