package ptrace

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Structures and operations of seccomp notifications (Linux, include/uapi/linux/seccomp.h).
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type response struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

type addFD struct {
	id          uint64
	flags       uint32
	source      uint32
	target      uint32
	targetFlags uint32
}

const (
	notifReceive = 0xc0502100
	notifSend    = 0xc0182101
	notifValid   = 0x40082102
	notifAddFD   = 0x40182103
	notifFlags   = 0x40082104

	addFDSend        = 2 // answers with the descriptor in the same step (Linux 5.14)
	responseContinue = 1
	syncWakeUp       = 1 // the task goes on where the supervisor ran (Linux 6.6)
)

// listenerFlags are those with which the filter is installed: a listener, and one that only a deadly signal keeps from answering (Linux 5.19):
// any other would have the task make the call again that has been carried out already.
const listenerFlags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV

func (s *supervisor) ioctl(op uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), op, uintptr(arg))
	return e
}

// ioctlFlags asks for wake-ups that suit a task and its supervisor, where the kernel knows of them. They are an argument, no pointer.
func (s *supervisor) ioctlFlags() error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), notifFlags, syncWakeUp); e != 0 {
		return e
	}
	return nil
}

// blockSignals keeps signals off the calling goroutine's thread, for good. One that interrupts an ADDFD would withdraw the descriptor and
// leave the reply (Go's runtime sends SIGURG at any time).
func blockSignals() {
	runtime.LockOSThread()
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil)
}

// serve answers calls until no task is left.
func (s *supervisor) serve() {
	blockSignals()
	for {
		var n notification
		switch e := s.ioctl(notifReceive, unsafe.Pointer(&n)); e {
		case 0:
		case unix.EINTR, unix.ENOENT: // the task has ended meanwhile
			continue
		default:
			return
		}
		s.reply(n.id, s.answer(&n))
	}
}

func (s *supervisor) answer(n *notification) answer {
	t := s.tasks.get(int(n.pid))
	h := s.handlers[int(n.nr)]
	if t == nil || h == nil {
		return fail(unix.ENOSYS)
	}
	return h(&call{supervisor: s, task: t, nr: int(n.nr), id: n.id, args: n.args})
}

// valid reports whether the task still waits for an answer.
func (s *supervisor) valid(id uint64) bool { return s.ioctl(notifValid, unsafe.Pointer(&id)) == 0 }

// reply gives a call its answer. What fails here fails because the task is gone.
func (s *supervisor) reply(id uint64, a answer) {
	if a.later {
		return
	}
	r := response{id: id, value: a.value}
	switch {
	case a.pass:
		r = response{id: id, flags: responseContinue}
	case a.err != nil:
		r = response{id: id, err: -int32(errnoOf(a.err))}
	case a.isFD:
		add := addFD{id: id, flags: addFDSend, source: uint32(a.fd)}
		if a.cloexec {
			add.targetFlags = unix.O_CLOEXEC
		}
		e := s.ioctl(notifAddFD, unsafe.Pointer(&add))
		unix.Close(a.fd)
		if e == 0 || e == unix.ENOENT {
			return
		}
		r.err = -int32(e) // the task has no descriptor left: EMFILE
	}
	_ = s.ioctl(notifSend, unsafe.Pointer(&r))
}

// errnoOf is the error number in an error.
func errnoOf(err error) unix.Errno {
	if e, ok := errors.AsType[unix.Errno](err); ok {
		return e
	}
	return unix.EIO
}
