package ptrace

import "golang.org/x/sys/unix"

// foreignABI refuses the x32 calls, whose numbers have a bit of their own.
func foreignABI(fail func(unix.Errno) unix.SockFilter) []unix.SockFilter {
	const x32 = 0x40000000
	return []unix.SockFilter{{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jt: 0, Jf: 1, K: x32}, fail(unix.ENOSYS)}
}

func openCalls() []openCall { return []openCall{{unix.SYS_OPENAT, 2}, {unix.SYS_OPEN, 1}} }
