package layer

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// spoolMemory is how much of what a compressor is behind is kept in memory; spoolFile how much more in a file, but no more than a part of what
	// is free on its disk. After that writing waits.
	spoolMemory = 4 << 20
	spoolFile   = 256 << 20
	spoolPart   = 4
	spoolLeast  = 1 << 20
)

// spool is a queue before a slow writer, which a goroutine of its own serves: writing to it waits for the disk at most, until the file is full
// too. It is a convenience: a file that cannot be had, or written to, makes writing wait, and is no error. Whoever has written to one must call
// Close or abort.
type spool struct {
	dst io.WriteCloser
	// open makes the file, nameless, when it is needed.
	open func() (*os.File, error)
	// limit is the most that the file may hold.
	limit int64
	done  chan struct{}

	mu   sync.Mutex
	cond *sync.Cond
	// queue comes before what is in the file.
	queue  [][]byte
	queued int
	free   [][]byte
	// file is a ring of size bytes, which holds those from read to written; full is set where no more is put into it.
	file          *os.File
	size          int64
	read, written int64
	full          bool
	// ended is set when nothing more is written, closed when dst has everything.
	ended, closed bool
	err           error
}

var errAborted = errors.New("the layer is given up")

func newSpool(dst io.WriteCloser, open func() (*os.File, error)) *spool {
	s := &spool{dst: dst, open: open, limit: spoolFile, done: make(chan struct{})}
	s.cond = sync.NewCond(&s.mu)
	go s.run()
	return s
}

func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for total := 0; ; {
		n, err := s.accept(p[total:])
		if total += n; err != nil || total == len(p) {
			return total, err
		}
		if n == 0 {
			s.cond.Wait()
		}
	}
}

// accept takes as much of p as there is room for now.
func (s *spool) accept(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	defer s.cond.Broadcast()
	if s.read == s.written && (len(s.queue) == 0 || s.queued+len(p) <= spoolMemory) {
		s.queue, s.queued = append(s.queue, append(s.spare(), p...)), s.queued+len(p)
		return len(p), nil
	}
	if s.file == nil && !s.full {
		s.full = !s.begin()
	}
	if s.full {
		return 0, nil
	}
	at := s.written % s.size
	n, err := s.file.WriteAt(p[:min(int64(len(p)), s.size-at, s.size-(s.written-s.read))], at)
	s.written += int64(n)
	s.full = err != nil
	return n, nil
}

// begin makes the file; it reports whether there is one.
func (s *spool) begin() bool {
	f, err := s.open()
	if err != nil {
		return false
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err == nil {
		s.size = min(s.limit, int64(fs.Bavail)*fs.Bsize/spoolPart)
	}
	if s.size < spoolLeast {
		_ = f.Close()
		return false
	}
	s.file = f
	return true
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
		_ = s.file.Close() // it has no name, and nothing of it is wanted any more
	}
	if s.err == nil {
		s.err = s.dst.Close()
	}
	s.closed = true
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
			at := s.read % s.size
			return nil, stretch{s.file, at, min(s.written-s.read, s.size-at)}, false
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
	s.read += int64(len(b))
	// What has been read takes no room from the layer's own blob; where that is not to be had it waits for the next round.
	_ = unix.Fallocate(int(from.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from.off, int64(len(b)))
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
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// abort gives up what has not ended well; the writer is not used any more when it returns.
func (s *spool) abort() {
	s.mu.Lock()
	if s.err == nil && !s.closed {
		s.err = errAborted
	}
	s.cond.Broadcast()
	s.mu.Unlock()
	<-s.done
}
