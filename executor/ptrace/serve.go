package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
)

// serve answers calls until no task is left.
func (s *supervisor) serve() error {
	server, err := notify.NewServer(s.listener, s.answer)
	if err != nil {
		return err
	}
	for range workers {
		go server.Work()
	}
	return nil
}

func (s *supervisor) answer(w *notify.Worker, n *notify.Notification) answer {
	t := s.tasks.get(int(n.PID))
	h := s.handlers[int(n.NR)]
	if t == nil || h == nil {
		return fail(unix.ENOSYS)
	}
	return h(&call{supervisor: s, task: t, worker: w, nr: int(n.NR), id: n.ID, args: n.Args})
}
