package fakeid

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
)

// Offsets in struct seccomp_data (seccomp(2)).
const (
	offsetNR   = 0
	offsetArch = 4
	offsetArg0 = 16
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

func equal(k uint32, then, otherwise uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: then, Jf: otherwise, K: k}
}

// onDevice notifies of a call if the mode in an argument is that of a device: of the bits of a file's type, those of
// S_IFCHR and S_IFBLK alone have the second lowest and not the highest.
func onDevice(nr, arg int) []unix.SockFilter {
	and := unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: unix.S_IFREG | unix.S_IFCHR}
	return []unix.SockFilter{
		equal(uint32(nr), 0, 5), load(offsetArg0 + 8*uint32(arg)), and, equal(unix.S_IFCHR, 0, 1),
		ret(unix.SECCOMP_RET_USER_NOTIF), ret(unix.SECCOMP_RET_ALLOW),
	}
}

// onArgument notifies of a call if an argument is one of some values.
func onArgument(nr, arg int, values []uint32) []unix.SockFilter {
	out := []unix.SockFilter{equal(uint32(nr), 0, uint8(2+2*len(values))), load(offsetArg0 + 8*uint32(arg))}
	for _, v := range values {
		out = append(out, equal(v, 0, 1), ret(unix.SECCOMP_RET_USER_NOTIF))
	}
	return append(out, ret(unix.SECCOMP_RET_ALLOW))
}

// FilterFlags are those with which the filter is to be installed.
const FilterFlags = notify.FilterFlags

// Supported says why this kernel is too old for a Supervisor. Asked for flags it does not know, it does not look at the filter.
func Supported() error {
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, notify.FilterFlags, 0); e == unix.EFAULT {
		return nil
	}
	return errors.New("imitating users: this kernel has no seccomp notifications that a signal does not interrupt (Linux 5.19)")
}

// Filter returns the filter whose listener a Supervisor serves. It forbids nothing, and lets calls of another machine's kind pass.
// What is not listed costs nothing: the kernel remembers for which calls a filter has only one answer (Linux 5.11).
func Filter(m Mode) []unix.SockFilter {
	p := []unix.SockFilter{load(offsetArch), equal(auditArch, 1, 0), ret(unix.SECCOMP_RET_ALLOW), load(offsetNR)}
	if m == Devices {
		for nr, arg := range deviceCalls() {
			p = append(p, onDevice(nr, arg)...)
		}
		return append(p, ret(unix.SECCOMP_RET_ALLOW))
	}
	p = append(p, onArgument(unix.SYS_PRCTL, 0, identity.Prctl())...)
	p = append(p, onArgument(unix.SYS_PRLIMIT64, 1, []uint32{rlimitLocks})...)
	p = append(p, onPeer()...)
	for _, nr := range slices.Sorted(maps.Keys(handlers(m))) {
		if nr != unix.SYS_PRCTL && nr != unix.SYS_PRLIMIT64 && nr != unix.SYS_GETSOCKOPT {
			p = append(p, equal(uint32(nr), 0, 1), ret(unix.SECCOMP_RET_USER_NOTIF))
		}
	}
	return append(p, ret(unix.SECCOMP_RET_ALLOW))
}
