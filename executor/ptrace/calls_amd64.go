package ptrace

import "golang.org/x/sys/unix"

// legacyHandlers are the calls that only older machines have, in terms of the newer ones.
func legacyHandlers() map[int]handler {
	const nofollow = unix.AT_SYMLINK_NOFOLLOW
	return map[int]handler{
		unix.SYS_NEWFSTATAT: fstatat,
		unix.SYS_OPEN:       with(openat, at()),
		unix.SYS_CREAT: with(openat, func(a [6]uint64) [6]uint64 {
			return [6]uint64{cwd, a[0], unix.O_CREAT | unix.O_WRONLY | unix.O_TRUNC, a[1]}
		}),
		unix.SYS_STAT:      with(fstatat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], 0} }),
		unix.SYS_LSTAT:     with(fstatat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], nofollow} }),
		unix.SYS_ACCESS:    with(faccessat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], 0} }),
		unix.SYS_READLINK:  with(readlinkat, at()),
		unix.SYS_MKDIR:     with(mkdirat, at()),
		unix.SYS_RMDIR:     with(unlinkat, at(unix.AT_REMOVEDIR)),
		unix.SYS_UNLINK:    with(unlinkat, at(0)),
		unix.SYS_MKNOD:     with(mknodat, at()),
		unix.SYS_SYMLINK:   with(symlinkat, func(a [6]uint64) [6]uint64 { return [6]uint64{a[0], cwd, a[1]} }),
		unix.SYS_LINK:      with(linkat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], cwd, a[1], 0} }),
		unix.SYS_RENAME:    with(renameat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], cwd, a[1], 0} }),
		unix.SYS_CHMOD:     with(fchmodat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], 0} }),
		unix.SYS_CHOWN:     with(fchownat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], a[2], 0} }),
		unix.SYS_LCHOWN:    with(fchownat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], a[2], nofollow} }),
		unix.SYS_UTIME:     with(utimes(unitSeconds), func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1]} }),
		unix.SYS_UTIMES:    with(utimes(unitMicro), func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1]} }),
		unix.SYS_FUTIMESAT: utimes(unitMicro),
	}
}
