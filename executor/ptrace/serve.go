package ptrace

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
)

// serve answers calls until no task is left.
func (s *supervisor) serve() {
	server, err := notify.NewServer(s.listener, s.answer)
	if err == nil {
		err = server.Serve(workers)
	}
	if err != nil {
		s.abort(err)
	}
}

// abort ends the step with an error: its calls cannot be answered any more. All tasks end with the supervisor (EXITKILL), and where nobody takes
// the report, nobody waits for it.
func (s *supervisor) abort(err error) {
	_ = s.reports.Encode(report{Error: fmt.Sprintf("the supervisor gave up: %v", err)})
	syscall.Exit(1)
}

func (s *supervisor) answer(w *notify.Worker, n *notify.Notification) answer {
	t := s.tasks.get(int(n.PID))
	h := s.handlers[int(n.NR)]
	if t == nil || h == nil {
		return fail(unix.ENOSYS)
	}
	return h(&call{supervisor: s, task: t, worker: w, nr: int(n.NR), id: n.ID, args: n.Args})
}
