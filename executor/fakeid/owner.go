package fakeid

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
	"github.com/cairn-build/cairn/pkg/fakeroot"
)

func fstat(c *call) notify.Answer {
	at, err := c.open(c.int(0))
	if err != nil {
		return notify.Pass()
	}
	defer at.close()
	if uint64(at.st.Dev) == c.procDev {
		return notify.Pass()
	}
	at.said.Stat(&at.st)
	return notify.ErrorOrZero(c.memory().Write(c.args[1], notify.BytesOf(&at.st)))
}

// fstatat is newfstatat(2), and older calls in its form.
func fstatat(c *call) notify.Answer {
	at, err := c.at(0, c.args[3]&unix.AT_SYMLINK_NOFOLLOW == 0, c.args[3])
	if err != nil {
		return c.problem(err)
	}
	defer at.close()
	at.said.Stat(&at.st)
	return notify.ErrorOrZero(c.memory().Write(c.args[2], notify.BytesOf(&at.st)))
}

func statx(c *call) notify.Answer {
	at, err := c.at(0, c.args[2]&unix.AT_SYMLINK_NOFOLLOW == 0, c.args[2])
	if err != nil {
		return c.problem(err)
	}
	defer at.close()
	var sx unix.Statx_t
	sync := int(c.args[2]) & (unix.AT_STATX_FORCE_SYNC | unix.AT_STATX_DONT_SYNC)
	if err := unix.Statx(at.fd, "", unix.AT_EMPTY_PATH|sync, int(c.u32(3)), &sx); err != nil {
		return notify.Fail(err)
	}
	st := at.st
	at.said.Stat(&st)
	sx.Uid, sx.Gid, sx.Mode = st.Uid, st.Gid, uint16(st.Mode)
	sx.Size, sx.Blocks = uint64(st.Size), uint64(st.Blocks)
	sx.Rdev_major, sx.Rdev_minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	return notify.ErrorOrZero(c.memory().Write(c.args[4], notify.BytesOf(&sx)))
}

func fchownat(c *call) notify.Answer {
	at, err := c.at(0, c.args[4]&unix.AT_SYMLINK_NOFOLLOW == 0, c.args[4])
	if err != nil {
		return c.problem(err)
	}
	defer at.close()
	return notify.ErrorOrZero(c.chown(&at, c.u32(2), c.u32(3)))
}

func fchown(c *call) notify.Answer {
	at, err := c.open(c.int(0))
	if err != nil {
		return notify.Pass()
	}
	defer at.close()
	return notify.ErrorOrZero(c.chown(&at, c.u32(1), c.u32(2)))
}

func (c *call) chown(at *place, uid, gid uint32) error {
	if !c.root() {
		said := at.said.Of(&at.st)
		if said.UID != c.person.UID.FS || uid != identity.KeepID && uid != said.UID || gid != identity.KeepID && !c.person.In(gid) {
			return unix.EPERM
		}
	}
	before := at.st
	// The kernel gives it to whom it belongs anyway. With that it is in the overlay's upper directory, has a new time of change, and has lost
	// what a change of owner takes away; or the kernel says why not, on a file system that is read-only.
	if err := unix.Fchownat(at.fd, "", 0, 0, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if err := at.carry(&before); err != nil {
		return err
	}
	if err := unix.Fstat(at.fd, &at.st); err != nil {
		return err
	}
	at.said.Update(&at.st, func(m *fakeroot.Meta) {
		if uid != identity.KeepID {
			m.UID = uid
		}
		if gid != identity.KeepID {
			m.GID = gid
		}
	})
	return nil
}

// settle has the overlay copy a file up that is about to be changed, if it is one that gets a new number thereby and something is said of it.
func (p *place) settle() {
	if _, said := p.said.Get(fakeroot.KeyOf(&p.st)); !said || p.st.Nlink < 2 || p.kind() == unix.S_IFDIR {
		return
	}
	if p.kind() != unix.S_IFREG {
		_ = unix.Fchownat(p.fd, "", 0, 0, unix.AT_EMPTY_PATH)
	} else if fd, err := unix.Open(selfFD(p.fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(fd)
	}
	_ = p.carry(&p.st)
}

// carry says of a file what was said of it before it was copied up: one with several names below gets a new number then.
func (p *place) carry(before *unix.Stat_t) error {
	if before.Nlink < 2 {
		return nil
	}
	var after unix.Stat_t
	if err := unix.Fstat(p.fd, &after); err != nil {
		return err
	}
	if m, ok := p.said.Get(fakeroot.KeyOf(before)); ok && fakeroot.KeyOf(&after) != fakeroot.KeyOf(before) {
		p.said.Set(fakeroot.KeyOf(&after), m)
	}
	return nil
}

// mayOwn is whether the task may do what only a file's owner may.
func mayOwn(c *call, at *place) error {
	if !c.owns(at) {
		return unix.EPERM
	}
	return nil
}

func mayWrite(c *call, at *place) error { return c.access(at, unix.W_OK) }

// maySee is nothing beyond having found it.
func maySee(*call, *place) error { return nil }

func mayEnter(c *call, at *place) error {
	if at.kind() != unix.S_IFDIR {
		return nil // the kernel says so
	}
	return c.access(at, unix.X_OK)
}

// mayTouch: the owner may set any time, who may write only the present one.
func mayTouch(c *call, at *place) error {
	if c.owns(at) {
		return nil
	}
	if c.args[2] == 0 {
		return c.access(at, unix.W_OK)
	}
	var times [2]unix.Timespec
	b := notify.BytesOf(&times)
	if err := c.memory().ReadFull(c.args[2], b); err == nil && times[0].Nsec == unix.UTIME_NOW && times[1].Nsec == unix.UTIME_NOW {
		return c.access(at, unix.W_OK)
	}
	return unix.EPERM
}

// mayXattr checks a change of the attribute whose name is in an argument.
func mayXattr(arg int) func(c *call, at *place) error {
	return func(c *call, at *place) error {
		name, err := c.memory().Text(c.args[arg], 255, unix.ERANGE)
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(name, "user."):
			return c.access(at, unix.W_OK)
		}
		return mayOwn(c, at)
	}
}

// faccessat checks with the real ids of the task, unless AT_EACCESS says otherwise.
func faccessat(c *call) notify.Answer {
	real := c.person
	if c.args[3]&unix.AT_EACCESS == 0 {
		real.UID.FS, real.GID.FS = real.UID.R, real.GID.R
	}
	if real.UID.FS == 0 {
		return notify.Pass()
	}
	c.person = real
	at, err := c.at(0, c.args[3]&unix.AT_SYMLINK_NOFOLLOW == 0, c.args[3])
	if err != nil {
		return c.problem(err)
	}
	defer at.close()
	return c.allow(c.access(&at, c.u32(2)&7))
}

// execveat checks that the task may execute a file, and makes it the file's owner where a bit says so. The kernel executes it.
func execveat(c *call) notify.Answer {
	at, err := c.at(0, c.args[4]&unix.AT_SYMLINK_NOFOLLOW == 0, c.args[4])
	if err != nil {
		return c.problem(err)
	}
	defer at.close()
	if err := c.access(&at, unix.X_OK); err != nil {
		return notify.Fail(err)
	}
	var setuid, setgid *uint32
	if said := at.said.Of(&at.st); said.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && at.kind() == unix.S_IFREG && said.Mode&0o111 != 0 && !isScript(&at) {
		if said.Mode&unix.S_ISUID != 0 {
			setuid = &said.UID
		}
		if said.Mode&unix.S_ISGID != 0 && said.Mode&unix.S_IXGRP != 0 {
			setgid = &said.GID
		}
	}
	after := c.person
	after.entering = false
	after.Credentials = c.person.Execute(setuid, setgid)
	if !after.is(&c.person) {
		c.become(c.tid, after)
	}
	return notify.Pass()
}

// isScript reports whether a file is executed by another one, which does not become its owner.
func isScript(at *place) bool {
	fd, err := unix.Open(selfFD(at.fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	var magic [2]byte
	n, _ := unix.Read(fd, magic[:])
	return n == 2 && string(magic[:]) == "#!"
}
