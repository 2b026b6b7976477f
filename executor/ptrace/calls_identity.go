package ptrace

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// identityHandlers are the calls by which a task asks and changes who it is. Nothing of it reaches the kernel: there is one id only.
func identityHandlers() map[int]handler {
	user := func(c *credentials) *ids { return &c.uid }
	group := func(c *credentials) *ids { return &c.gid }
	return map[int]handler{
		unix.SYS_GETUID:  tell(func(c credentials) uint32 { return c.uid.r }),
		unix.SYS_GETEUID: tell(func(c credentials) uint32 { return c.uid.e }),
		unix.SYS_GETGID:  tell(func(c credentials) uint32 { return c.gid.r }),
		unix.SYS_GETEGID: tell(func(c credentials) uint32 { return c.gid.e }),
		unix.SYS_SETUID:  setID(user), unix.SYS_SETGID: setID(group),
		unix.SYS_SETREUID: setREID(user), unix.SYS_SETREGID: setREID(group),
		unix.SYS_SETRESUID: setRESID(user), unix.SYS_SETRESGID: setRESID(group),
		unix.SYS_GETRESUID: getRESID(user), unix.SYS_GETRESGID: getRESID(group),
		unix.SYS_SETFSUID: setFSID(user), unix.SYS_SETFSGID: setFSID(group),
		unix.SYS_GETGROUPS: getgroups, unix.SYS_SETGROUPS: setgroups,
	}
}

func tell(f func(credentials) uint32) handler {
	return func(c *call) answer { return value(int64(f(c.task.creds()))) }
}

// kindOf picks the ids of users or those of groups.
type kindOf func(c *credentials) *ids

// change sets real, effective and saved id, each unless it is sameID, as setresuid(2) does.
func (c *credentials) change(kind kindOf, r, e, s uint32) error {
	i, root := kind(c), c.uid.e == 0
	if !c.capable() {
		for _, id := range []uint32{r, e, s} {
			if id != sameID && !i.has(id) {
				return unix.EPERM
			}
		}
	}
	set := func(to *uint32, id uint32) {
		if id != sameID {
			*to = id
		}
	}
	set(&i.r, r)
	set(&i.e, e)
	set(&i.s, s)
	i.fs = i.e
	if root && c.uid.e != 0 {
		c.permitted, c.effective = c.keep || c.uid.has(0), false
	}
	return nil
}

// become changes the identity of the task by f.
func (c *call) become(f func(creds *credentials) error) answer {
	creds := c.task.creds()
	if err := f(&creds); err != nil {
		return fail(err)
	}
	c.task.setCreds(creds)
	return value(0)
}

func setID(kind kindOf) handler {
	return func(c *call) answer {
		id := c.u32(0)
		if id == sameID {
			return fail(unix.EINVAL)
		}
		return c.become(func(creds *credentials) error {
			if creds.capable() {
				return creds.change(kind, id, id, id)
			}
			return creds.change(kind, sameID, id, sameID)
		})
	}
}

func setREID(kind kindOf) handler {
	return func(c *call) answer {
		r, e := c.u32(0), c.u32(1)
		return c.become(func(creds *credentials) error {
			before := *kind(creds)
			if err := creds.change(kind, r, e, sameID); err != nil {
				return err
			}
			// The saved id follows (setreuid(2)).
			if i := kind(creds); r != sameID || e != sameID && e != before.r {
				i.s = i.e
			}
			return nil
		})
	}
}

func setRESID(kind kindOf) handler {
	return func(c *call) answer {
		return c.become(func(creds *credentials) error { return creds.change(kind, c.u32(0), c.u32(1), c.u32(2)) })
	}
}

func getRESID(kind kindOf) handler {
	return func(c *call) answer {
		creds := c.task.creds()
		i := kind(&creds)
		for n, id := range []uint32{i.r, i.e, i.s} {
			if err := c.memory().words(c.args[n], id); err != nil {
				return fail(err)
			}
		}
		return value(0)
	}
}

// setFSID returns the id there was, whether it changes it or not.
func setFSID(kind kindOf) handler {
	return func(c *call) answer {
		creds := c.task.creds()
		i := kind(&creds)
		old, id := i.fs, c.u32(0)
		if id != sameID && (creds.uid.e == 0 || i.has(id) || id == old) {
			i.fs = id
			c.task.setCreds(creds)
		}
		return value(int64(old))
	}
}

func getgroups(c *call) answer {
	groups := c.task.creds().groups
	if n := c.int(0); n != 0 {
		if int(n) < len(groups) {
			return fail(unix.EINVAL)
		}
		if err := c.memory().words(c.args[1], groups...); err != nil {
			return fail(err)
		}
	}
	return value(int64(len(groups)))
}

func setgroups(c *call) answer {
	n := c.args[0]
	if n > 65536 {
		return fail(unix.EINVAL)
	}
	b := make([]byte, 4*n)
	if err := c.memory().readFull(c.args[1], b); n > 0 && err != nil {
		return fail(err)
	}
	return c.become(func(creds *credentials) error {
		if !creds.capable() {
			return unix.EPERM
		}
		creds.groups = nil
		for ; len(b) > 0; b = b[4:] {
			creds.groups = append(creds.groups, binary.NativeEndian.Uint32(b))
		}
		return nil
	})
}

func umask(c *call) answer {
	c.task.group.setMask(c.u32(0))
	return pass // the kernel's own is for what it makes itself: sockets
}

// capabilities of version 3 come in two words each (capget(2)).
const capabilityVersion3 = 0x20080522

func capget(c *call) answer {
	var head [8]byte
	if err := c.memory().readFull(c.args[0], head[:]); err != nil {
		return fail(err)
	}
	if binary.NativeEndian.Uint32(head[:]) != capabilityVersion3 || c.args[1] == 0 {
		return pass
	}
	t := c.task
	if pid := int(binary.NativeEndian.Uint32(head[4:])); pid != 0 {
		if t = c.tasks.get(pid); t == nil {
			return fail(unix.ESRCH)
		}
	}
	var effective, permitted uint32
	creds := t.creds()
	if creds.capable() {
		effective = dockerCapabilityBits
	}
	if creds.uid.e == 0 || creds.permitted {
		permitted = dockerCapabilityBits
	}
	return errorOrZero(c.memory().words(c.args[1], effective, permitted, 0, 0, 0, 0))
}

const dockerCapabilityBits = 0xa80425fb

// capset takes and gives the capabilities of who has ceased to be root but kept them.
func capset(c *call) answer {
	var data [8]byte
	if err := c.memory().readFull(c.args[1], data[:]); err != nil {
		return fail(err)
	}
	effective, permitted := binary.NativeEndian.Uint32(data[:]) != 0, binary.NativeEndian.Uint32(data[4:]) != 0
	return c.become(func(creds *credentials) error {
		if creds.uid.e == 0 {
			return nil
		}
		if !creds.permitted && (effective || permitted) {
			return unix.EPERM
		}
		creds.permitted, creds.effective = permitted, effective
		return nil
	})
}

// prctl answers what is asked about capabilities (emulatedPrctl).
func prctl(c *call) answer {
	switch c.args[0] {
	case unix.PR_SET_KEEPCAPS:
		return c.become(func(creds *credentials) error { creds.keep = c.args[1] != 0; return nil })
	case unix.PR_CAPBSET_READ:
		if c.args[1] > unix.CAP_LAST_CAP {
			return fail(unix.EINVAL)
		}
		return value(dockerCapabilityBits >> c.args[1] & 1)
	case unix.PR_GET_SECUREBITS:
		return value(0)
	case unix.PR_CAP_AMBIENT:
		if c.args[1] == unix.PR_CAP_AMBIENT_IS_SET || c.args[1] == unix.PR_CAP_AMBIENT_CLEAR_ALL || c.args[1] == unix.PR_CAP_AMBIENT_LOWER {
			return value(0)
		}
		return fail(unix.EPERM)
	}
	if !c.task.creds().capable() {
		return fail(unix.EPERM)
	}
	return value(0)
}

// kill lets tasks signal each other, and nobody else: beside them, processes of the same user are the builder and what it works with.
func kill(c *call) answer {
	pid, sig := int(c.int(0)), unix.Signal(c.int(1))
	switch {
	case pid > 0:
		if c.tasks.get(pid) == nil {
			return fail(unix.ESRCH)
		}
		return pass
	case pid == 0:
		return pass // a process group of theirs
	case pid < -1:
		// A process group has its leader's id; it may have left.
		if t := c.tasks.get(-pid); t == nil && !c.groupOfOurs(-pid) {
			return fail(unix.ESRCH)
		}
		return pass
	}
	sent := error(unix.ESRCH)
	for _, id := range c.tasks.groups() {
		if id != c.task.group.id && unix.Kill(id, sig) == nil {
			sent = nil
		}
	}
	return errorOrZero(sent)
}

func nestedPtrace(c *call) answer {
	c.remark("ptrace is refused: a process has one tracer, and here it is the sandbox (debuggers, strace and sanitizers' leak check do not work)")
	return fail(unix.EPERM)
}

// groupOfOurs reports whether a task is in a process group.
func (c *call) groupOfOurs(pgid int) bool {
	for _, id := range c.tasks.groups() {
		if g, err := unix.Getpgid(id); err == nil && g == pgid {
			return true
		}
	}
	return false
}
