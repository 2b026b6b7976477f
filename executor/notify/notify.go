// Package notify answers system calls of other processes: the kernel's side of it is seccomp's user notification, with which a filter has a
// call wait until whoever holds its listener has said what the call returns (seccomp_unotify(2)).
package notify

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Notification is one call that waits, as the kernel writes it (Linux, include/uapi/linux/seccomp.h). PID is the thread's id.
type Notification struct {
	ID    uint64
	PID   uint32
	flags uint32
	NR    int32
	Arch  uint32
	ip    uint64
	Args  [6]uint64
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
	ioctlReceive = 0xc0502100
	ioctlSend    = 0xc0182101
	ioctlValid   = 0x40082102
	ioctlAddFD   = 0x40182103
	ioctlFlags   = 0x40082104

	responseContinue = 1
	syncWakeUp       = 1 // the task goes on where the supervisor ran (Linux 6.6)
)

// FilterFlags are those with which a filter is installed: a listener, and one that only a deadly signal keeps from answering (Linux 5.19):
// any other would have the task make the call again that has been carried out already.
const FilterFlags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV

// Answer is what a call returns: a value, an error, a descriptor that becomes the task's, or that the kernel is to carry it out after all.
type Answer struct {
	Value int64
	Err   error
	// FD is handed over if IsFD, and closed.
	FD          int
	IsFD        bool
	CloseOnExec bool
	Pass        bool
	// Later means that somebody else will answer.
	Later bool
}

// Fail is the answer of a call that fails, Value of one that does not; ErrorOrZero is either.
func Fail(err error) Answer { return Answer{Err: err} }

// Value is the answer of a call that returns v.
func Value(v int64) Answer { return Answer{Value: v} }

// ErrorOrZero is the answer of a call that returns nothing but an error.
func ErrorOrZero(err error) Answer { return Answer{Err: err} }

// Pass has the kernel carry the call out.
func Pass() Answer { return Answer{Pass: true} }

// Listener is the descriptor by which notifications come. Whoever made it closes it.
type Listener int

func (l Listener) ioctl(op uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(l), op, uintptr(arg))
	return e
}

// SyncWakeUp asks for wake-ups that suit a task and its supervisor. Kernels before 6.6 do not know of them, and do without. They are an
// argument, no pointer.
func (l Listener) SyncWakeUp() { unix.Syscall(unix.SYS_IOCTL, uintptr(l), ioctlFlags, syncWakeUp) }

// Receive waits for a call. EINTR and ENOENT mean that its task has ended meanwhile.
func (l Listener) Receive(n *Notification) error {
	*n = Notification{}
	if e := l.ioctl(ioctlReceive, unsafe.Pointer(n)); e != 0 {
		return e
	}
	return nil
}

// Valid reports whether the task still waits for an answer.
func (l Listener) Valid(id uint64) bool { return l.ioctl(ioctlValid, unsafe.Pointer(&id)) == 0 }

// Reply gives a call its answer. A task that is gone needs none; any other error means that it waits for ever.
func (l Listener) Reply(id uint64, a Answer) error {
	if a.Later {
		return nil
	}
	r := response{id: id, value: a.Value}
	switch {
	case a.Pass:
		r = response{id: id, flags: responseContinue}
	case a.Err != nil:
		r = response{id: id, err: -int32(Errno(a.Err))}
	case a.IsFD:
		// Not in one step with the answer: while it is open here too, the task could close it and find its file still locked, or busy, or its FIFO with
		// an end more than it knows of.
		fd, e := l.addFD(id, a)
		unix.Close(a.FD)
		switch e {
		case 0:
			r.value = int64(fd)
		case unix.ENOENT:
			return nil
		default:
			r.err = -int32(e) // the task has no descriptor left: EMFILE
		}
	}
	if e := l.ioctl(ioctlSend, unsafe.Pointer(&r)); e != 0 && e != unix.ENOENT {
		return fmt.Errorf("answering a system call: %w", e)
	}
	return nil
}

// addFD gives the task a copy of a descriptor, and returns its number there.
func (l Listener) addFD(id uint64, a Answer) (uintptr, unix.Errno) {
	add := addFD{id: id, source: uint32(a.FD)}
	if a.CloseOnExec {
		add.targetFlags = unix.O_CLOEXEC
	}
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(l), ioctlAddFD, uintptr(unsafe.Pointer(&add)))
	return fd, e
}

// Errno is the error number in an error.
func Errno(err error) unix.Errno {
	if e, ok := errors.AsType[unix.Errno](err); ok {
		return e
	}
	return unix.EIO
}

// BlockSignals keeps signals off the calling goroutine's thread, for good: it ends with the goroutine. One that interrupts an ADDFD would
// withdraw the descriptor and leave the reply (Go's runtime sends SIGURG at any time).
func BlockSignals() error {
	runtime.LockOSThread()
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return fmt.Errorf("blocking signals: %w", err)
	}
	return nil
}
