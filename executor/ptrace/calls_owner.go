package ptrace

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

func fchmodat(c *call) answer {
	at, err := c.findEmpty(0, c.args[3])
	if err != nil {
		return fail(err)
	}
	defer at.close()
	return errorOrZero(c.chmod(&at, c.u32(2)))
}

func fchmod(c *call) answer {
	at, err := c.open(c.int(0))
	if err != nil {
		return fail(err)
	}
	defer at.close()
	return errorOrZero(c.chmod(&at, c.u32(1)))
}

func (c *call) chmod(at *place, mode uint32) error {
	switch {
	case at.isLink():
		return unix.EOPNOTSUPP
	case at.mount.ReadOnly:
		return unix.EROFS
	case !c.owns(at):
		return unix.EPERM
	}
	mode &= 0o7777
	if !at.isDir() && !c.task.privileged() && !c.task.creds().In(at.owners().Of(&at.st).GID) {
		mode &^= unix.S_ISGID
	}
	real := realMode(mode, at.isDir())
	// The kernel looks at who may execute a file, and at nothing else.
	if real&0o111 != at.st.Mode&0o111 || !at.owners().Shared(keyOf(at)) {
		if err := c.unshare(at); err != nil {
			return err
		}
		if err := unix.Chmod(at.file(), real); err != nil && at.path != "" {
			return err
		}
	} else if err := c.separate(at); err != nil {
		return err
	}
	at.owners().Update(&at.st, func(m *fakeroot.Meta) { m.Mode = mode })
	return nil
}

func fchownat(c *call) answer {
	at, err := c.findEmpty(0, c.args[4])
	if err != nil {
		return fail(err)
	}
	defer at.close()
	return errorOrZero(c.chown(&at, c.u32(2), c.u32(3)))
}

func fchown(c *call) answer {
	at, err := c.open(c.int(0))
	if err != nil {
		return fail(err)
	}
	defer at.close()
	return errorOrZero(c.chown(&at, c.u32(1), c.u32(2)))
}

const sameID = ^uint32(0) // leaves an id as it is

func (c *call) chown(at *place, uid, gid uint32) error {
	if at.mount.ReadOnly {
		return unix.EROFS
	}
	if at.mount.Kind == procMount && at.path != "" {
		return unix.EPERM
	}
	if !c.task.privileged() {
		said, creds := at.owners().Of(&at.st), c.task.creds()
		if said.UID != creds.UID.FS || uid != sameID && uid != said.UID || gid != sameID && !creds.In(gid) {
			return unix.EPERM
		}
	}
	if err := c.separate(at); err != nil {
		return err
	}
	at.owners().Update(&at.st, func(m *fakeroot.Meta) {
		if uid != sameID {
			m.UID = uid
		}
		if gid != sameID {
			m.GID = gid
		}
		if at.isDir() || at.isLink() {
			return
		}
		// A change of owner takes away what the file could do for others (chown(2)).
		m.Mode &^= unix.S_ISUID
		if m.Mode&unix.S_IXGRP != 0 {
			m.Mode &^= unix.S_ISGID
		}
		m.Xattrs = fakeroot.WithXattr(m.Xattrs, "security.capability", nil)
	})
	return nil
}

func chroot(c *call) answer {
	p, err := c.memory().Path(c.args[0])
	if err != nil {
		return fail(err)
	}
	at, err := c.resolver().find(unix.AT_FDCWD, p, true)
	if err != nil {
		return fail(err)
	}
	at.close()
	if at.path != "/" {
		c.remark("chroot is refused: a place without it is what --isolation=ptrace is for")
		return fail(unix.EPERM)
	}
	return value(0)
}

// mayXattr says which attributes are recorded. Capabilities and those of users are what a layer has; others are not had here.
func (c *call) mayXattr(at *place, name string, write bool) error {
	switch {
	case name == "security.capability":
		if write && !c.task.privileged() {
			return unix.EPERM
		}
	case strings.HasPrefix(name, "user."):
		kind := at.st.Mode & unix.S_IFMT
		if kind != unix.S_IFREG && kind != unix.S_IFDIR || at.owners().Of(&at.st).Type != 0 {
			if write {
				return unix.EPERM
			}
			return unix.ENODATA
		}
	case strings.HasPrefix(name, "trusted."):
		if write {
			return unix.EPERM
		}
		return unix.ENODATA
	default:
		return unix.EOPNOTSUPP
	}
	if write && at.mount.ReadOnly {
		return unix.EROFS
	}
	if !write {
		return nil
	}
	if err := c.resolver().access(at, unix.W_OK); err != nil {
		return err
	}
	return c.separate(at)
}

const maxXattrName = 255

// onPath makes a handler of one that works on a file: it looks the path in the first argument up.
func onPath(follow bool, f func(c *call, at *place) answer) handler {
	return func(c *call) answer {
		p, err := c.memory().Path(c.args[0])
		if err != nil {
			return fail(err)
		}
		at, err := c.resolver().find(unix.AT_FDCWD, p, follow)
		if err != nil {
			return fail(err)
		}
		defer at.close()
		return f(c, &at)
	}
}

func onFD(c *call, f func(c *call, at *place) answer) answer {
	at, err := c.open(c.int(0))
	if err != nil {
		return fail(err)
	}
	defer at.close()
	return f(c, &at)
}

func setxattr(follow bool) handler    { return onPath(follow, doSetxattr) }
func getxattr(follow bool) handler    { return onPath(follow, doGetxattr) }
func listxattr(follow bool) handler   { return onPath(follow, doListxattr) }
func removexattr(follow bool) handler { return onPath(follow, doRemovexattr) }
func fsetxattr(c *call) answer        { return onFD(c, doSetxattr) }
func fgetxattr(c *call) answer        { return onFD(c, doGetxattr) }
func flistxattr(c *call) answer       { return onFD(c, doListxattr) }
func fremovexattr(c *call) answer     { return onFD(c, doRemovexattr) }

func doSetxattr(c *call, at *place) answer {
	name, err := c.memory().Text(c.args[1], maxXattrName, unix.ERANGE)
	if err != nil {
		return fail(err)
	}
	if err := c.mayXattr(at, name, true); err != nil {
		return fail(err)
	}
	if c.args[3] > 64<<10 {
		return fail(unix.E2BIG)
	}
	value := make([]byte, c.args[3])
	if err := c.memory().ReadFull(c.args[2], value); len(value) > 0 && err != nil {
		return fail(err)
	}
	flags := int(c.args[4])
	at.owners().Update(&at.st, func(m *fakeroot.Meta) {
		_, has := m.Xattrs[name]
		switch {
		case has && flags&unix.XATTR_CREATE != 0:
			err = unix.EEXIST
		case !has && flags&unix.XATTR_REPLACE != 0:
			err = unix.ENODATA
		default:
			m.Xattrs = fakeroot.WithXattr(m.Xattrs, name, value)
		}
	})
	return errorOrZero(err)
}

func doGetxattr(c *call, at *place) answer {
	name, err := c.memory().Text(c.args[1], maxXattrName, unix.ERANGE)
	if err != nil {
		return fail(err)
	}
	if err := c.mayXattr(at, name, false); err != nil {
		return fail(err)
	}
	v, ok := at.owners().Of(&at.st).Xattrs[name]
	if !ok {
		return fail(unix.ENODATA)
	}
	return c.giveBack([]byte(v))
}

// giveBack writes a value to the buffer and size that are the third and fourth argument, or says how long it is.
func (c *call) giveBack(v []byte) answer {
	switch {
	case c.args[3] == 0:
	case uint64(len(v)) > c.args[3]:
		return fail(unix.ERANGE)
	default:
		if err := c.memory().Write(c.args[2], v); err != nil {
			return fail(err)
		}
	}
	return value(int64(len(v)))
}

func doListxattr(c *call, at *place) answer {
	var names []string
	for name := range at.owners().Of(&at.st).Xattrs {
		names = append(names, name+"\x00")
	}
	slices.Sort(names)
	c.args[2], c.args[3] = c.args[1], c.args[2]
	return c.giveBack([]byte(strings.Join(names, "")))
}

func doRemovexattr(c *call, at *place) answer {
	name, err := c.memory().Text(c.args[1], maxXattrName, unix.ERANGE)
	if err != nil {
		return fail(err)
	}
	if err := c.mayXattr(at, name, true); err != nil {
		return fail(err)
	}
	at.owners().Update(&at.st, func(m *fakeroot.Meta) {
		if _, ok := m.Xattrs[name]; !ok {
			err = unix.ENODATA
		}
		m.Xattrs = fakeroot.WithXattr(m.Xattrs, name, nil)
	})
	return errorOrZero(err)
}
