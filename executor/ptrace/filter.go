package ptrace

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
)

// Offsets in struct seccomp_data (seccomp(2)).
const (
	offsetNR   = 0
	offsetArch = 4
	offsetArg0 = 16
)

// forbiddenClone are the flags of clone(2) that would make a process that cannot be supervised, or that sees the machine.
const forbiddenClone = unix.CLONE_UNTRACED | unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// refused are the calls that are answered at once: 0 is success.
func refused() map[int]unix.Errno {
	return map[int]unix.Errno{
		// Nothing of the root filesystem needs to survive a crash before it is committed.
		unix.SYS_FSYNC: 0, unix.SYS_FDATASYNC: 0, unix.SYS_SYNC: 0, unix.SYS_SYNCFS: 0, unix.SYS_SYNC_FILE_RANGE: 0,
		// Its operations take paths that no filter sees; every program that uses it can do without.
		unix.SYS_IO_URING_SETUP: unix.ENOSYS, unix.SYS_IO_URING_ENTER: unix.ENOSYS, unix.SYS_IO_URING_REGISTER: unix.ENOSYS,
		// Its flags are in memory; libraries fall back to clone.
		unix.SYS_CLONE3:            unix.ENOSYS,
		unix.SYS_PROCESS_VM_READV:  unix.EPERM,
		unix.SYS_PROCESS_VM_WRITEV: unix.EPERM,
		unix.SYS_UNSHARE:           unix.EPERM, unix.SYS_SETNS: unix.EPERM, unix.SYS_PIVOT_ROOT: unix.EPERM,
		unix.SYS_MOUNT: unix.EPERM, unix.SYS_UMOUNT2: unix.EPERM, unix.SYS_OPEN_TREE: unix.EPERM, unix.SYS_MOVE_MOUNT: unix.EPERM,
		unix.SYS_FSOPEN: unix.EPERM, unix.SYS_FSPICK: unix.EPERM, unix.SYS_MOUNT_SETATTR: unix.EPERM,
		unix.SYS_OPEN_BY_HANDLE_AT: unix.EPERM, unix.SYS_NAME_TO_HANDLE_AT: unix.EOPNOTSUPP,
		unix.SYS_BPF: unix.EPERM, unix.SYS_PERF_EVENT_OPEN: unix.EPERM, unix.SYS_USERFAULTFD: unix.EPERM, unix.SYS_KCMP: unix.EPERM,
		unix.SYS_KEYCTL: unix.EPERM, unix.SYS_ADD_KEY: unix.EPERM, unix.SYS_REQUEST_KEY: unix.EPERM,
		unix.SYS_ACCT: unix.EPERM, unix.SYS_SWAPON: unix.EPERM, unix.SYS_SWAPOFF: unix.EPERM, unix.SYS_QUOTACTL: unix.EPERM,
		// Where the builder is root, RUN must not be root of the machine.
		unix.SYS_INIT_MODULE: unix.EPERM, unix.SYS_FINIT_MODULE: unix.EPERM, unix.SYS_DELETE_MODULE: unix.EPERM,
		unix.SYS_KEXEC_LOAD: unix.EPERM, unix.SYS_KEXEC_FILE_LOAD: unix.EPERM, unix.SYS_SETTIMEOFDAY: unix.EPERM, unix.SYS_CLOCK_SETTIME: unix.EPERM,
		unix.SYS_SETHOSTNAME: unix.EPERM, unix.SYS_SETDOMAINNAME: unix.EPERM, unix.SYS_SYSLOG: unix.EPERM, unix.SYS_VHANGUP: unix.EPERM,
		unix.SYS_REBOOT: unix.EPERM, unix.SYS_FANOTIFY_INIT: unix.EPERM,
	}
}

// sendtoAddress is which argument of sendto(2) is the address.
const sendtoAddress = 4

// openCall is a call that opens a path, and which of its arguments are the flags.
type openCall struct{ nr, flags int }

// instructions builds the filter. What is listed nowhere is the kernel's business alone, and is fast: the kernel remembers for which
// calls a filter has only one answer (Linux 5.11).
func instructions(notified []int, traced []int) []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	ret := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	equal := func(k uint32, then, otherwise uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: then, Jf: otherwise, K: k}
	}
	fail := func(e unix.Errno) unix.SockFilter { return ret(unix.SECCOMP_RET_ERRNO | uint32(e)) }
	// Calls of another machine's kind (int 0x80) would be taken for others.
	p := []unix.SockFilter{load(offsetArch), equal(auditArch, 1, 0), fail(unix.ENOSYS), load(offsetNR)}
	p = append(p, foreignABI(fail)...)
	answers := refused()
	for _, nr := range slices.Sorted(maps.Keys(answers)) {
		p = append(p, equal(uint32(nr), 0, 1), fail(answers[nr]))
	}
	for _, nr := range traced {
		p = append(p, equal(uint32(nr), 0, 1), ret(unix.SECCOMP_RET_TRACE))
	}
	for _, o := range openCalls() {
		// A descriptor that only names a file cannot be handed over: the kernel opens it, at a ptrace stop.
		p = append(p, equal(uint32(o.nr), 0, 4), load(offsetArg0+8*uint32(o.flags)),
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 0, Jf: 1, K: unix.O_PATH}, ret(unix.SECCOMP_RET_TRACE),
			ret(unix.SECCOMP_RET_USER_NOTIF))
	}
	for _, nr := range notified {
		p = append(p, equal(uint32(nr), 0, 1), ret(unix.SECCOMP_RET_USER_NOTIF))
	}
	// Few datagrams name who they are for; where all others go is the kernel's business.
	p = append(p, equal(unix.SYS_SENDTO, 0, 4), load(offsetArg0+8*sendtoAddress), equal(0, 0, 1), ret(unix.SECCOMP_RET_ALLOW),
		ret(unix.SECCOMP_RET_TRACE))
	p = append(p, equal(unix.SYS_GETSOCKOPT, 0, 6), load(offsetArg0+8), equal(unix.SOL_SOCKET, 0, 3), load(offsetArg0+16),
		equal(unix.SO_PEERCRED, 0, 1), ret(unix.SECCOMP_RET_TRACE), ret(unix.SECCOMP_RET_ALLOW))
	p = append(p, equal(unix.SYS_CLONE, 0, 4), load(offsetArg0),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 0, Jf: 1, K: forbiddenClone}, fail(unix.EPERM),
		ret(unix.SECCOMP_RET_ALLOW))
	ops := identity.Prctl()
	p = append(p, equal(unix.SYS_PRCTL, 0, uint8(3+2*len(ops))), load(offsetArg0))
	// A process that keeps secrets to itself (ssh-agent) would keep its paths from the supervisor: it is told that it does, and does not.
	p = append(p, equal(unix.PR_SET_DUMPABLE, 0, 1), fail(0))
	for _, op := range ops {
		p = append(p, equal(op, 0, 1), ret(unix.SECCOMP_RET_USER_NOTIF))
	}
	return append(p, ret(unix.SECCOMP_RET_ALLOW))
}
