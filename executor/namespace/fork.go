package namespace

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneArgs are the arguments of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// report is what a process writes of the operation that failed.
type report struct{ index, errno uint32 }

// fork makes a process that is a copy of this one, with no other thread, and carries out ops; this process gets its number. The caller is
// locked to its thread and has all signals blocked.
//
// The copy has a Go runtime in whatever state it was: it cannot allocate, grow a stack, or be scheduled. So after the clone there is nothing
// but raw system calls, in the frame that was made before it, as in package syscall's own fork.
//
//go:noinline
//go:norace
//go:nocheckptr
func fork(args *cloneArgs, ops []op, regs *[regCount]uint64) (pid int, err syscall.Errno) {
	var rep report
	n, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || n != 0 {
		return int(n), errno
	}
	for i := 0; i < len(ops); {
		o := &ops[i]
		if o.nr == opFail {
			rep.index, rep.errno = uint32(i), uint32(o.args[0])
			break
		}
		for a := range o.args {
			if o.kinds[a] == inRegister {
				o.args[a] = regs[o.args[a]]
				o.kinds[a] = immediate
			}
		}
		r, _, errno := syscall.RawSyscall6(uintptr(o.nr), uintptr(o.args[0]), uintptr(o.args[1]), uintptr(o.args[2]),
			uintptr(o.args[3]), uintptr(o.args[4]), uintptr(o.args[5]))
		switch {
		case errno == 0 || errno == syscall.Errno(o.except):
			if o.keep < regCount {
				regs[o.keep] = uint64(r)
			}
			i += int(o.onSuccess)
			continue
		case o.onError != 0:
			i += int(o.onError)
			continue
		}
		rep.index, rep.errno = uint32(i), uint32(errno)
		break
	}
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(regs[regReport]), uintptr(unsafe.Pointer(&rep)), unsafe.Sizeof(rep))
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}
