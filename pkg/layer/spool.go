package layer

import (
	"errors"
	"io"
	"os"
	"sync"
)

const (
	// spoolMemory is how much of what a compressor is behind is kept in memory; spoolFile how much more in a file. After that writing waits.
	spoolMemory = 4 << 20
	spoolFile   = 1 << 30
)

// spool is a queue before a slow writer, which a goroutine of its own serves: writing to it waits for the disk at most, until the file is full
// too. Whoever has written to one must call Close or abort.
type spool struct {
	dst io.WriteCloser
	// open makes the file, nameless, when it is needed.
	open func() (*os.File, error)
	done chan struct{}

	mu   sync.Mutex
	cond *sync.Cond
	// queue comes before what is in the file from read to written.
	queue         [][]byte
	queued        int
	free          [][]byte
	file          *os.File
	read, written int64
	ended         bool
	err           error
}

var errAborted = errors.New("the layer is given up")

func newSpool(dst io.WriteCloser, open func() (*os.File, error)) *spool {
	s := &spool{dst: dst, open: open, done: make(chan struct{})}
	s.cond = sync.NewCond(&s.mu)
	go s.run()
	return s
}

func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && s.written-s.read >= spoolFile {
		s.cond.Wait()
	}
	if s.err != nil {
		return 0, s.err
	}
	defer s.cond.Broadcast()
	if s.read == s.written && s.queued+len(p) <= spoolMemory {
		s.queue, s.queued = append(s.queue, append(s.spare(), p...)), s.queued+len(p)
		return len(p), nil
	}
	if s.file == nil {
		if s.file, s.err = s.open(); s.err != nil {
			return 0, s.err
		}
	}
	n, err := s.file.WriteAt(p, s.written)
	s.written += int64(n)
	if err != nil {
		s.err = err
	}
	return n, err
}

// spare is a buffer to be used again.
func (s *spool) spare() []byte {
	if n := len(s.free); n > 0 {
		b := s.free[n-1]
		s.free = s.free[:n-1]
		return b[:0]
	}
	return nil
}

// run serves the writer until the end, an error, or abort.
func (s *spool) run() {
	defer close(s.done)
	var chunk []byte
	for {
		b, from, end := s.next()
		if end {
			break
		}
		var err error
		if b == nil {
			if chunk == nil {
				chunk = make([]byte, copyBuffer)
			}
			b = chunk[:min(int64(len(chunk)), from.n)]
			_, err = from.file.ReadAt(b, from.off)
		}
		if err == nil {
			_, err = s.dst.Write(b)
		}
		s.taken(b, from, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.err = errors.Join(s.err, s.file.Close())
	}
	if s.err == nil {
		s.err = s.dst.Close()
	}
}

// stretch is a part of the file.
type stretch struct {
	file   *os.File
	off, n int64
}

// next waits for something to do: bytes of the queue, or a stretch of the file.
func (s *spool) next() (b []byte, from stretch, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return nil, from, true
		case len(s.queue) > 0:
			return s.queue[0], from, false
		case s.read < s.written:
			return nil, stretch{s.file, s.read, s.written - s.read}, false
		case s.ended:
			return nil, from, true
		}
		s.cond.Wait()
	}
}

// taken notes that the writer has got b.
func (s *spool) taken(b []byte, from stretch, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.cond.Broadcast()
	if s.err == nil {
		s.err = err
	}
	if from.file == nil {
		s.queue, s.queued = s.queue[1:], s.queued-len(b)
		if len(s.free) < 4 {
			s.free = append(s.free, b)
		}
		return
	}
	if s.read += int64(len(b)); s.read == s.written {
		s.read, s.written = 0, 0
	}
}

// end says that nothing more is written; Close also waits until the writer has got everything and is closed.
func (s *spool) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.cond.Broadcast()
}

// Close implements io.Closer.
func (s *spool) Close() error {
	s.end()
	<-s.done
	return s.err
}

// abort gives up; the writer is not used any more when it returns.
func (s *spool) abort() {
	s.mu.Lock()
	if s.err == nil {
		s.err = errAborted
	}
	s.cond.Broadcast()
	s.mu.Unlock()
	<-s.done
}
