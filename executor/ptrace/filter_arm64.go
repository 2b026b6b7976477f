package ptrace

import "golang.org/x/sys/unix"

func foreignABI(func(unix.Errno) unix.SockFilter) []unix.SockFilter { return nil }

func openCalls() []openCall { return []openCall{{unix.SYS_OPENAT, 2}} }
