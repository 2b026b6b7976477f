package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
	"github.com/cairn-build/cairn/pkg/fakeroot"
)

func keyOf(at *place) fakeroot.Key { return fakeroot.KeyOf(&at.st) }

func realMode(said uint32, dir bool) uint32 { return fakeroot.RealMode(said, dir) }

func fstatat(c *call) answer {
	p, open, err := c.named(0, c.args[3])
	switch {
	case err != nil:
		return fail(err)
	case open:
		return c.statOpen(c.int(0), c.args[2])
	}
	at, err := c.resolver().find(c.int(0), p, c.args[3]&unix.AT_SYMLINK_NOFOLLOW == 0)
	if err != nil {
		return fail(err)
	}
	defer at.close()
	at.owners().Stat(&at.st)
	return errorOrZero(c.memory().Write(c.args[2], notify.BytesOf(&at.st)))
}

func fstat(c *call) answer {
	if c.int(0) < 0 {
		return fail(unix.EBADF)
	}
	return c.statOpen(c.int(0), c.args[1])
}

// statOpen answers with what is said of an open file. Every program asks that of every library.
func (c *call) statOpen(fd int32, to uint64) answer {
	var st unix.Stat_t
	name := c.task.fdLink(fd)
	if err := unix.Stat(name, &st); err != nil {
		return fail(unix.EBADF)
	}
	c.ownersOf(&st, name).Stat(&st)
	return errorOrZero(c.memory().Write(to, notify.BytesOf(&st)))
}

// ownersOf is the table for an open file, by its name in /proc: where only one knows the file, or none, the mount it is in does not matter.
func (s *supervisor) ownersOf(st *unix.Stat_t, name string) *fakeroot.Table {
	knows := s.owners[rootTable]
	key, several := fakeroot.KeyOf(st), 0
	for _, t := range s.owners {
		if t.Knows(key) {
			knows = t
			several++
		}
	}
	if several < 2 {
		return knows
	}
	host, _ := readlink(name)
	m, _ := s.mounts.of(host)
	return m.owners
}

func statx(c *call) answer {
	at, err := c.findEmpty(0, c.args[2])
	if err != nil {
		return fail(err)
	}
	defer at.close()
	var sx unix.Statx_t
	sync := int(c.args[2]) & (unix.AT_STATX_FORCE_SYNC | unix.AT_STATX_DONT_SYNC)
	if err := unix.Statx(at.fd, "", unix.AT_EMPTY_PATH|sync, int(c.u32(3)), &sx); err != nil {
		return fail(err)
	}
	st := at.st
	at.owners().Stat(&st)
	sx.Uid, sx.Gid, sx.Mode, sx.Nlink = st.Uid, st.Gid, uint16(st.Mode), uint32(st.Nlink)
	sx.Size, sx.Blocks = uint64(st.Size), uint64(st.Blocks)
	sx.Rdev_major, sx.Rdev_minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	return errorOrZero(c.memory().Write(c.args[4], notify.BytesOf(&sx)))
}

func statfs(c *call, at *place) answer { return c.giveStatfs(at) }

func fstatfs(c *call) answer { return onFD(c, (*call).giveStatfs) }

func (c *call) giveStatfs(at *place) answer {
	var s unix.Statfs_t
	if err := unix.Fstatfs(at.fd, &s); err != nil {
		return fail(err)
	}
	if at.mount.Kind == tmpfsMount {
		s.Type = unix.TMPFS_MAGIC
	}
	return errorOrZero(c.memory().Write(c.args[1], notify.BytesOf(&s)))
}

// faccessat checks with the real ids of the task, unless AT_EACCESS says otherwise.
func faccessat(c *call) answer {
	at, err := c.findEmpty(0, c.args[3])
	if err != nil {
		return fail(err)
	}
	defer at.close()
	want := c.u32(2)
	if want&^7 != 0 {
		return fail(unix.EINVAL)
	}
	if want&unix.W_OK != 0 && at.mount.ReadOnly {
		return fail(unix.EROFS)
	}
	if want == 0 || at.mount.Kind == procMount {
		return value(0)
	}
	creds := c.task.creds()
	if c.args[3]&unix.AT_EACCESS == 0 {
		creds.UID.FS, creds.GID.FS = creds.UID.R, creds.GID.R
	}
	said := at.owners().Of(&at.st)
	if creds.UID.FS != 0 {
		return errorOrZero(creds.Allows(said.UID, said.GID, said.Mode, want))
	}
	if want&unix.X_OK != 0 && !at.isDir() && said.Mode&0o111 == 0 {
		return fail(unix.EACCES)
	}
	return value(0)
}

func readlinkat(c *call) answer {
	p, err := c.memory().Path(c.args[1])
	if err != nil {
		return fail(err)
	}
	known, age := c.plain.has(p)
	if known && c.task.privileged() {
		return fail(unix.EINVAL)
	}
	var at place
	r := c.resolver()
	if p == "" {
		at, err = c.open(c.int(0))
	} else {
		at, err = r.find(c.int(0), p, false)
	}
	if err != nil {
		return fail(err)
	}
	defer at.close()
	if !at.isLink() {
		if p != "" && p[0] == '/' && r.links == 0 && at.mount == c.mounts[0] {
			c.plain.add(p, age)
		}
		return fail(unix.EINVAL)
	}
	var target string
	if at.mount.Kind == procMount {
		target, err = c.resolver().procLink(&at)
	} else {
		target, err = readlinkAt(at.fd)
	}
	if err != nil {
		return fail(err)
	}
	if c.int(3) <= 0 {
		return fail(unix.EINVAL)
	}
	b := []byte(target)[:min(len(target), int(c.int(3)))]
	return answer{Value: int64(len(b)), Err: c.memory().Write(c.args[2], b)}
}

func getcwd(c *call) answer {
	dir, err := c.resolver().directory(unix.AT_FDCWD)
	if err != nil {
		return fail(unix.ENOENT)
	}
	if uint64(len(dir)+1) > c.args[1] {
		return fail(unix.ERANGE)
	}
	return answer{Value: int64(len(dir) + 1), Err: c.memory().Write(c.args[0], append([]byte(dir), 0))}
}

// uname gives the host its name; no namespace does it.
func uname(c *call) answer {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fail(err)
	}
	clear(u.Nodename[:])
	copy(u.Nodename[:len(u.Nodename)-1], c.job.Hostname)
	return errorOrZero(c.memory().Write(c.args[0], notify.BytesOf(&u)))
}
