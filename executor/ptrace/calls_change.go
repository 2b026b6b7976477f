package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// mayChange checks whether a task may make and remove names in a directory.
func (c *call) mayChange(dir *place) error {
	if dir.mount.ReadOnly {
		return unix.EROFS
	}
	if dir.mount.Kind == procMount {
		return unix.EACCES
	}
	return c.resolver().access(dir, unix.W_OK|unix.X_OK)
}

// created notes who owns a file that a task has made, by its descriptor.
func (c *call) created(fd int, dir *place, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	c.note(&st, dir, mode)
	return nil
}

// note says of a new file what the kernel would have made of it.
func (c *call) note(st *unix.Stat_t, dir *place, mode uint32) {
	creds := c.task.creds()
	m := fakeroot.Meta{UID: creds.UID.FS, GID: creds.GID.FS, Mode: mode}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if parent := dir.owners().Of(&dir.st); parent.Mode&unix.S_ISGID != 0 {
		m.GID = parent.GID
		if isDir {
			m.Mode |= unix.S_ISGID
		}
	}
	dir.owners().Drop(fakeroot.KeyOf(st))
	if m.UID != 0 || m.GID != 0 || m.Mode != st.Mode&0o7777 {
		dir.owners().Set(fakeroot.KeyOf(st), m)
	}
}

// made notes a new name that has no descriptor.
func (c *call) made(dir *place, base string, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		mode = 0o777
	}
	c.note(&st, dir, mode)
	return nil
}

// newName looks up where a name is to be made.
func (c *call) newName(dirfd int32, p string) (dir place, base string, err error) {
	dir, base, err = c.resolver().parent(dirfd, p)
	if err != nil {
		return place{}, "", err
	}
	switch {
	case special(base), c.mounts.is(join(dir.path, base)):
		err = unix.EEXIST
	default:
		var st unix.Stat_t
		if unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			err = unix.EEXIST
		} else {
			err = c.mayChange(&dir)
		}
	}
	if err != nil {
		dir.close()
	}
	return dir, base, err
}

func mkdirat(c *call) answer {
	p, err := c.memory().Path(c.args[1])
	if err != nil {
		return fail(err)
	}
	dir, base, err := c.newName(c.int(0), p)
	if err != nil {
		return fail(err)
	}
	defer dir.close()
	mode := c.u32(2) & 0o1777 &^ c.task.group.mask()
	if err := unix.Mkdirat(dir.fd, base, realMode(mode, true)); err != nil {
		return fail(err)
	}
	return errorOrZero(c.made(&dir, base, mode))
}

// mknodat makes a file in place of a device: no one here could, and nobody can use one in a build.
func mknodat(c *call) answer {
	p, err := c.memory().Path(c.args[1])
	if err != nil {
		return fail(err)
	}
	dir, base, err := c.newName(c.int(0), p)
	if err != nil {
		return fail(err)
	}
	defer dir.close()
	kind, mode := c.u32(2)&unix.S_IFMT, c.u32(2)&0o7777&^c.task.group.mask()
	device := kind == unix.S_IFCHR || kind == unix.S_IFBLK
	real := kind
	switch {
	case device && !c.task.privileged():
		return fail(unix.EPERM)
	case device, kind == 0:
		real = unix.S_IFREG
	case kind == unix.S_IFDIR:
		return fail(unix.EPERM)
	}
	if err := unix.Mknodat(dir.fd, base, real|realMode(mode, false), 0); err != nil {
		return fail(err)
	}
	if err := c.made(&dir, base, mode); err != nil || !device {
		return errorOrZero(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	dir.owners().Update(&st, func(m *fakeroot.Meta) { m.Type, m.Rdev = kind, uint64(c.u32(3)) })
	return value(0)
}

func symlinkat(c *call) answer {
	target, err := c.memory().Path(c.args[0])
	if err != nil {
		return fail(err)
	}
	p, err := c.memory().Path(c.args[2])
	if err != nil {
		return fail(err)
	}
	if target == "" {
		return fail(unix.ENOENT)
	}
	dir, base, err := c.newName(c.int(1), p)
	if err != nil {
		return fail(err)
	}
	defer dir.close()
	if err := unix.Symlinkat(target, dir.fd, base); err != nil {
		return fail(err)
	}
	return errorOrZero(c.made(&dir, base, 0o777))
}

func linkat(c *call) answer {
	flags := c.args[4] & unix.AT_EMPTY_PATH
	if c.args[4]&unix.AT_SYMLINK_FOLLOW == 0 {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	from, err := c.findEmpty(0, flags)
	if err != nil {
		return fail(err)
	}
	defer from.close()
	p, err := c.memory().Path(c.args[3])
	if err != nil {
		return fail(err)
	}
	dir, base, err := c.newName(c.int(2), p)
	if err != nil {
		return fail(err)
	}
	defer dir.close()
	switch {
	case from.isDir():
		return fail(unix.EPERM)
	case from.mount != dir.mount:
		return fail(unix.EXDEV)
	}
	// A file that other root filesystems share has one name in this one.
	if err := c.unshare(&from); err != nil {
		return fail(err)
	}
	if from.isLink() {
		// A link cannot be named by a descriptor: /proc would follow it.
		at, name, err := c.resolver().parent(unix.AT_FDCWD, from.path)
		if err != nil {
			return fail(err)
		}
		defer at.close()
		return errorOrZero(unix.Linkat(at.fd, name, dir.fd, base, 0))
	}
	return errorOrZero(unix.Linkat(unix.AT_FDCWD, from.file(), dir.fd, base, unix.AT_SYMLINK_FOLLOW))
}
