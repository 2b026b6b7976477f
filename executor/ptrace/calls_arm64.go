package ptrace

import "golang.org/x/sys/unix"

// legacyHandlers are the calls that arm64 has besides those that every machine has.
func legacyHandlers() map[int]handler {
	return map[int]handler{unix.SYS_FSTATAT: fstatat}
}
