package containerd

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
)

// The streams of a container, as Docker's API numbers them.
const (
	stdout = 1
	stderr = 2
)

// log is what a container has written, in the frames of Docker's API: STREAM 0 0 0 LENGTH(4 bytes, big-endian) DATA.
type log struct {
	file *os.File

	mu   sync.Mutex
	size int64
}

func newLog(path string) (*log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return &log{file: f}, err
}

// stream is a writer of one stream: a frame for each call.
func (l *log) stream(number byte) io.Writer { return stream{l, number} }

type stream struct {
	log    *log
	number byte
}

func (s stream) Write(p []byte) (int, error) {
	frame := make([]byte, 8, 8+len(p))
	frame[0] = s.number
	binary.BigEndian.PutUint32(frame[4:], uint32(len(p)))
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	n, err := s.log.file.WriteAt(append(frame, p...), s.log.size)
	if err != nil {
		return 0, err
	}
	s.log.size += int64(n)
	return len(p), nil
}

// open returns what has been written so far: whole frames. It can be read also after the container is gone.
func (l *log) open() (io.ReadCloser, error) {
	f, err := os.Open(l.file.Name())
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, l.size), f}, nil
}

func (l *log) remove() error { return errors.Join(l.file.Close(), os.Remove(l.file.Name())) }
