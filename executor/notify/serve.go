package notify

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Server answers calls on several threads. One of them at a time waits for the next call: the kernel wakes all that wait for each call, and a
// wake-up costs more than most answers. Who has received a call answers it and goes on waiting; only if the answer takes longer, and
// other calls wait already (Share), or if it will take very long (HandOver), does the next thread take its place.
type Server struct {
	listener Listener
	answer   func(w *Worker, n *Notification) Answer
	// turn is a semaphore (eventfd(2)). A thread that waits there, unlike one that waits for a channel, is woken by the kernel alone.
	turn int
	// receiver is whose turn it is.
	receiver atomic.Pointer[Worker]
	received atomic.Uint64
	// broken is why a thread could not give its turn away.
	broken chan error
}

// Worker is one thread of a Server.
type Worker struct{ server *Server }

func (w *Worker) receives() bool { return w.server.receiver.Load() == w }

// NewServer returns a Server of what comes from l. answer may be called on several threads at once.
func NewServer(l Listener, answer func(w *Worker, n *Notification) Answer) (*Server, error) {
	turn, err := unix.Eventfd(1, unix.EFD_SEMAPHORE|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	l.SyncWakeUp()
	return &Server{listener: l, answer: answer, turn: turn, broken: make(chan error, 1)}, nil
}

// Serve answers on some threads until no task is left. After an error nobody answers any more: tasks wait for ever and have to be ended.
func (s *Server) Serve(threads int) error {
	done := make(chan struct{})
	defer close(done)
	go s.watch(done)
	ended := make(chan error, threads)
	for range threads {
		go func() { ended <- s.work() }()
	}
	for range threads {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
		case err := <-s.broken:
			return err
		}
	}
	return nil
}

// work is a thread that answers. It returns when no task is left.
func (s *Server) work() error {
	if err := BlockSignals(); err != nil {
		return err
	}
	w := &Worker{server: s}
	defer w.HandOver()
	for {
		if err := w.take(); err != nil {
			return fmt.Errorf("waiting for a turn to receive system calls: %w", err)
		}
		var n Notification
		switch err := s.listener.Receive(&n); err {
		case nil:
		case unix.EINTR: // the task has ended meanwhile
			continue
		case unix.ENOENT: // or the last one has
			if s.listener.waiting()&unix.POLLHUP != 0 {
				return nil
			}
			continue
		default:
			return fmt.Errorf("receiving a system call: %w", err)
		}
		s.received.Add(1)
		if err := s.listener.Reply(n.ID, s.answer(w, &n)); err != nil {
			return err
		}
	}
}

// take waits until it is this thread's turn to receive.
func (w *Worker) take() error {
	var b [8]byte
	for !w.receives() {
		switch _, err := unix.Read(w.server.turn, b[:]); err {
		case nil:
			w.server.receiver.Store(w)
		case unix.EINTR:
		default:
			return err
		}
	}
	return nil
}

// patience is for how long calls wait behind an answer that takes unexpectedly long.
const patience = time.Second

// watch has another thread receive where the one whose turn it is has been in one answer for too long.
func (s *Server) watch(done <-chan struct{}) {
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for before := uint64(0); ; {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		waiting, now := s.listener.waiting(), s.received.Load()
		if r := s.receiver.Load(); r != nil && now == before && waiting&unix.POLLIN != 0 {
			r.HandOver()
		}
		before = now
	}
}

// Share has another thread receive what waits already, if anything does. A nil Worker shares nothing.
func (w *Worker) Share() {
	if w != nil && w.receives() && w.server.listener.waiting()&unix.POLLIN != 0 {
		w.HandOver()
	}
}

// HandOver has another thread receive what comes next.
func (w *Worker) HandOver() {
	if w == nil || !w.server.receiver.CompareAndSwap(w, nil) {
		return
	}
	if _, err := unix.Write(w.server.turn, binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
		select {
		case w.server.broken <- fmt.Errorf("giving the turn to receive system calls away: %w", err):
		default: // one reason is enough
		}
	}
}

// waiting says by the bits of poll(2) whether calls wait, and whether there are tasks at all.
func (l Listener) waiting() int16 {
	fds := [1]unix.PollFd{{Fd: int32(l), Events: unix.POLLIN}}
	if n, _ := unix.Poll(fds[:], 0); n < 1 {
		return 0
	}
	return fds[0].Revents
}
