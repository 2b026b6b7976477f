package notify

import (
	"encoding/binary"

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
}

// Worker is one thread of a Server.
type Worker struct {
	server *Server
	// receiving is whether it is this thread's turn.
	receiving bool
}

// NewServer returns a Server of what comes from l. answer may be called on several threads at once.
func NewServer(l Listener, answer func(w *Worker, n *Notification) Answer) (*Server, error) {
	turn, err := unix.Eventfd(1, unix.EFD_SEMAPHORE|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	_ = l.SyncWakeUp()
	return &Server{listener: l, answer: answer, turn: turn}, nil
}

// Work is a thread that answers. It returns when no task is left.
func (s *Server) Work() {
	BlockSignals()
	w := &Worker{server: s}
	defer w.HandOver()
	for {
		if err := w.take(); err != nil {
			return
		}
		var n Notification
		switch err := s.listener.Receive(&n); err {
		case nil:
		case unix.EINTR: // the task has ended meanwhile
			continue
		case unix.ENOENT: // or the last one has
			if s.listener.waiting()&unix.POLLHUP != 0 {
				return
			}
			continue
		default:
			return
		}
		s.listener.Reply(n.ID, s.answer(w, &n))
	}
}

// take waits until it is this thread's turn to receive.
func (w *Worker) take() error {
	var b [8]byte
	for !w.receiving {
		switch _, err := unix.Read(w.server.turn, b[:]); err {
		case nil:
			w.receiving = true
		case unix.EINTR:
		default:
			return err
		}
	}
	return nil
}

// Share has another thread receive what waits already, if anything does. A nil Worker shares nothing.
func (w *Worker) Share() {
	if w != nil && w.receiving && w.server.listener.waiting()&unix.POLLIN != 0 {
		w.HandOver()
	}
}

// HandOver has another thread receive what comes next.
func (w *Worker) HandOver() {
	if w == nil || !w.receiving {
		return
	}
	w.receiving = false
	_, _ = unix.Write(w.server.turn, binary.NativeEndian.AppendUint64(nil, 1))
}

// waiting says by the bits of poll(2) whether calls wait, and whether there are tasks at all.
func (l Listener) waiting() int16 {
	fds := [1]unix.PollFd{{Fd: int32(l), Events: unix.POLLIN}}
	if n, _ := unix.Poll(fds[:], 0); n < 1 {
		return 0
	}
	return fds[0].Revents
}
