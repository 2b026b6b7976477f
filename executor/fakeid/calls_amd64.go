package fakeid

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// deviceCalls make devices; the argument is that with the mode.
func deviceCalls() map[int]int { return map[int]int{unix.SYS_MKNODAT: 2, unix.SYS_MKNOD: 1} }

func deviceHandlers() map[int]handler {
	return map[int]handler{unix.SYS_MKNODAT: mknodat, unix.SYS_MKNOD: legacy(mknodat)}
}

// legacyHandlers are the calls that only older machines have, in terms of the newer ones.
func legacyHandlers() map[int]handler {
	const nofollow = unix.AT_SYMLINK_NOFOLLOW
	keep := func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], a[2], 0, 0} }
	two := func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], cwd, a[1], 0, 0} }
	return map[int]handler{
		unix.SYS_NEWFSTATAT: fstatat,
		unix.SYS_STAT:       with(fstatat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], 0} }),
		unix.SYS_LSTAT:      with(fstatat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], nofollow} }),
		unix.SYS_OPEN:       with(openat, keep),
		unix.SYS_CREAT: with(openat, func(a [6]uint64) [6]uint64 {
			return [6]uint64{cwd, a[0], unix.O_CREAT | unix.O_WRONLY | unix.O_TRUNC, a[1]}
		}),
		unix.SYS_ACCESS:    with(faccessat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], 0} }),
		unix.SYS_READLINK:  with(onLook(0, func(*call) bool { return false }, maySee), keep),
		unix.SYS_MKDIR:     with(mkdirat, keep),
		unix.SYS_RMDIR:     with(unlinkat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], unix.AT_REMOVEDIR} }),
		unix.SYS_UNLINK:    with(unlinkat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], 0} }),
		unix.SYS_MKNOD:     with(mknodat, keep),
		unix.SYS_SYMLINK:   with(symlinkat, func(a [6]uint64) [6]uint64 { return [6]uint64{a[0], cwd, a[1]} }),
		unix.SYS_LINK:      with(linkat, two),
		unix.SYS_RENAME:    with(renameat, two),
		unix.SYS_CHMOD:     with(onPath(0, follow, mayOwn), keep),
		unix.SYS_CHOWN:     with(fchownat, keep),
		unix.SYS_LCHOWN:    with(fchownat, func(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], a[2], nofollow} }),
		unix.SYS_UTIME:     with(onPath(0, follow, mayTouch), keep2),
		unix.SYS_UTIMES:    with(onPath(0, follow, mayTouch), keep2),
		unix.SYS_FUTIMESAT: with(onPath(0, follow, mayTouch), set(3, 0)),
	}
}

// keep2 leaves no flags behind the times.
func keep2(a [6]uint64) [6]uint64 { return [6]uint64{cwd, a[0], a[1], 0} }
