package ptrace

import "golang.org/x/sys/unix"

func foreignABI(func(unix.Errno) unix.SockFilter) []unix.SockFilter { return nil }
