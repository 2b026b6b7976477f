package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
)

// serve answers calls until no task is left.
func (s *supervisor) serve() {
	notify.BlockSignals()
	for {
		var n notify.Notification
		switch err := s.listener.Receive(&n); err {
		case nil:
		case unix.EINTR, unix.ENOENT: // the task has ended meanwhile
			continue
		default:
			return
		}
		s.listener.Reply(n.ID, s.answer(&n))
	}
}

func (s *supervisor) answer(n *notify.Notification) answer {
	t := s.tasks.get(int(n.PID))
	h := s.handlers[int(n.NR)]
	if t == nil || h == nil {
		return fail(unix.ENOSYS)
	}
	return h(&call{supervisor: s, task: t, nr: int(n.NR), id: n.ID, args: n.Args})
}
