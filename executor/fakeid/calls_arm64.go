package fakeid

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// deviceCalls make devices; the argument is that with the mode.
func deviceCalls() map[int]int { return map[int]int{unix.SYS_MKNODAT: 2} }

func deviceHandlers() map[int]handler { return map[int]handler{unix.SYS_MKNODAT: mknodat} }

// legacyHandlers are the calls with a number of their own on this machine.
func legacyHandlers() map[int]handler { return map[int]handler{unix.SYS_FSTATAT: fstatat} }
