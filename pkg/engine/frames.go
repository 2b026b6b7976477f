package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// frames is a log file in the frames of Docker's API (docs of ContainerAttach): STREAM 0 0 0 LENGTH(4 bytes, big-endian) DATA.
type frames struct {
	file *os.File // nil if nothing is kept

	mu    sync.Mutex
	size  int64
	grown chan struct{} // closed and replaced whenever something is written
	ended bool
}

func newFrames(path string, keep bool) (*frames, error) {
	l := &frames{grown: make(chan struct{})}
	if !keep {
		return l, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	l.file = f
	return l, err
}

// write appends one frame.
func (l *frames) write(stream byte, p []byte) error {
	if l.file == nil || len(p) == 0 {
		return nil
	}
	frame := make([]byte, 8, 8+len(p))
	frame[0] = stream
	binary.BigEndian.PutUint32(frame[4:], uint32(len(p)))
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.file.WriteAt(append(frame, p...), l.size)
	if err != nil {
		return err
	}
	l.size += int64(n)
	l.wake()
	return nil
}

// wake lets those who follow look again. l.mu is held.
func (l *frames) wake() {
	close(l.grown)
	l.grown = make(chan struct{})
}

// end says that nothing more will be written.
func (l *frames) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.wake()
}

// copyTo copies what is there, and with follow what comes until the end.
func (l *frames) copyTo(ctx context.Context, to io.Writer, follow bool) error {
	for at := int64(0); ; {
		l.mu.Lock()
		size, ended, grown := l.size, l.ended, l.grown
		l.mu.Unlock()
		n, err := io.Copy(to, io.NewSectionReader(l.file, at, size-at))
		at += n
		switch {
		case errors.Is(err, unix.EPIPE):
			return nil // the reader has had enough
		case err != nil:
			return err
		case !follow || ended:
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (l *frames) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
