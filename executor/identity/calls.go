package identity

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
)

// Task is whose call it is.
type Task interface {
	Memory() notify.Memory
	Creds() Credentials
	SetCreds(Credentials)
	// Other returns who another task is, by the number by which this one knows it.
	Other(pid int) (Credentials, bool)
}

// Handler carries a call out.
type Handler func(t Task, args [6]uint64) notify.Answer

type call struct {
	Task
	args [6]uint64
}

type answer = notify.Answer

type handler func(c *call) answer

func (c *call) int(i int) int32  { return int32(c.args[i]) }
func (c *call) u32(i int) uint32 { return uint32(c.args[i]) }

func fail(err error) answer { return notify.Fail(err) }
func value(v int64) answer  { return notify.Value(v) }

// Handlers are the calls by which a task asks and changes who it is, by number. Nothing of it reaches the kernel: there is one id only.
func Handlers() map[int]Handler {
	out := map[int]Handler{}
	for nr, h := range handlers() {
		out[nr] = func(t Task, args [6]uint64) notify.Answer { return h(&call{t, args}) }
	}
	return out
}

// Prctl are the operations of prctl(2) that speak of capabilities: the others are not for Handlers.
func Prctl() []uint32 {
	return []uint32{unix.PR_SET_KEEPCAPS, unix.PR_CAPBSET_READ, unix.PR_CAPBSET_DROP, unix.PR_SET_SECUREBITS, unix.PR_GET_SECUREBITS, unix.PR_CAP_AMBIENT}
}

func handlers() map[int]handler {
	user := func(c *Credentials) *IDs { return &c.UID }
	group := func(c *Credentials) *IDs { return &c.GID }
	return map[int]handler{
		unix.SYS_GETUID:  tell(func(c Credentials) uint32 { return c.UID.R }),
		unix.SYS_GETEUID: tell(func(c Credentials) uint32 { return c.UID.E }),
		unix.SYS_GETGID:  tell(func(c Credentials) uint32 { return c.GID.R }),
		unix.SYS_GETEGID: tell(func(c Credentials) uint32 { return c.GID.E }),
		unix.SYS_SETUID:  setID(user), unix.SYS_SETGID: setID(group),
		unix.SYS_SETREUID: setREID(user), unix.SYS_SETREGID: setREID(group),
		unix.SYS_SETRESUID: setRESID(user), unix.SYS_SETRESGID: setRESID(group),
		unix.SYS_GETRESUID: getRESID(user), unix.SYS_GETRESGID: getRESID(group),
		unix.SYS_SETFSUID: setFSID(user), unix.SYS_SETFSGID: setFSID(group),
		unix.SYS_GETGROUPS: getgroups, unix.SYS_SETGROUPS: setgroups,
		unix.SYS_CAPGET: capget, unix.SYS_CAPSET: capset, unix.SYS_PRCTL: prctl,
	}
}

func tell(f func(Credentials) uint32) handler {
	return func(c *call) answer { return value(int64(f(c.Creds()))) }
}

// KeepID, as an id, leaves it as it is.
const KeepID = ^uint32(0)

// kindOf picks the ids of users or those of groups.
type kindOf func(c *Credentials) *IDs

// change sets real, effective and saved id, each unless it is KeepID, as setresuid(2) does.
func (c *Credentials) change(kind kindOf, r, e, s uint32) error {
	i, root := kind(c), c.UID.E == 0
	if !c.Capable() {
		for _, id := range []uint32{r, e, s} {
			if id != KeepID && !i.Has(id) {
				return unix.EPERM
			}
		}
	}
	set := func(to *uint32, id uint32) {
		if id != KeepID {
			*to = id
		}
	}
	set(&i.R, r)
	set(&i.E, e)
	set(&i.S, s)
	i.FS = i.E
	if root && c.UID.E != 0 {
		c.permitted, c.effective = c.keep || c.UID.Has(0), false
	}
	return nil
}

// become changes the identity of the task by f.
func (c *call) become(f func(creds *Credentials) error) answer {
	creds := c.Creds()
	if err := f(&creds); err != nil {
		return fail(err)
	}
	c.SetCreds(creds)
	return value(0)
}

func setID(kind kindOf) handler {
	return func(c *call) answer {
		id := c.u32(0)
		if id == KeepID {
			return fail(unix.EINVAL)
		}
		return c.become(func(creds *Credentials) error {
			if creds.Capable() {
				return creds.change(kind, id, id, id)
			}
			return creds.change(kind, KeepID, id, KeepID)
		})
	}
}

func setREID(kind kindOf) handler {
	return func(c *call) answer {
		r, e := c.u32(0), c.u32(1)
		return c.become(func(creds *Credentials) error {
			before := *kind(creds)
			if err := creds.change(kind, r, e, KeepID); err != nil {
				return err
			}
			// The saved id follows (setreuid(2)).
			if i := kind(creds); r != KeepID || e != KeepID && e != before.R {
				i.S = i.E
			}
			return nil
		})
	}
}

func setRESID(kind kindOf) handler {
	return func(c *call) answer {
		return c.become(func(creds *Credentials) error { return creds.change(kind, c.u32(0), c.u32(1), c.u32(2)) })
	}
}

func getRESID(kind kindOf) handler {
	return func(c *call) answer {
		creds := c.Creds()
		i := kind(&creds)
		for n, id := range []uint32{i.R, i.E, i.S} {
			if err := c.Memory().Words(c.args[n], id); err != nil {
				return fail(err)
			}
		}
		return value(0)
	}
}

// setFSID returns the id there was, whether it changes it or not.
func setFSID(kind kindOf) handler {
	return func(c *call) answer {
		creds := c.Creds()
		i := kind(&creds)
		old, id := i.FS, c.u32(0)
		if id != KeepID && (creds.UID.E == 0 || i.Has(id) || id == old) {
			i.FS = id
			c.SetCreds(creds)
		}
		return value(int64(old))
	}
}

func getgroups(c *call) answer {
	groups := c.Creds().Groups
	if n := c.int(0); n != 0 {
		if int(n) < len(groups) {
			return fail(unix.EINVAL)
		}
		if err := c.Memory().Words(c.args[1], groups...); err != nil {
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
	if err := c.Memory().ReadFull(c.args[1], b); n > 0 && err != nil {
		return fail(err)
	}
	return c.become(func(creds *Credentials) error {
		if !creds.Capable() {
			return unix.EPERM
		}
		creds.Groups = nil
		for ; len(b) > 0; b = b[4:] {
			creds.Groups = append(creds.Groups, binary.NativeEndian.Uint32(b))
		}
		slices.Sort(creds.Groups) // as the kernel does
		return nil
	})
}

// capabilities of version 3 come in two words each (capget(2)).
const capabilityVersion3 = 0x20080522

func capget(c *call) answer {
	var head [8]byte
	if err := c.Memory().ReadFull(c.args[0], head[:]); err != nil {
		return fail(err)
	}
	if binary.NativeEndian.Uint32(head[:]) != capabilityVersion3 || c.args[1] == 0 {
		return notify.Pass()
	}
	creds := c.Creds()
	if pid := int(binary.NativeEndian.Uint32(head[4:])); pid != 0 {
		var ok bool
		if creds, ok = c.Other(pid); !ok {
			return fail(unix.ESRCH)
		}
	}
	var effective, permitted uint32
	if creds.Capable() {
		effective = CapabilityBits
	}
	if creds.UID.E == 0 || creds.permitted {
		permitted = CapabilityBits
	}
	return notify.ErrorOrZero(c.Memory().Words(c.args[1], effective, permitted, 0, 0, 0, 0))
}

// capset takes and gives the capabilities of who has ceased to be root but kept them.
func capset(c *call) answer {
	var data [8]byte
	if err := c.Memory().ReadFull(c.args[1], data[:]); err != nil {
		return fail(err)
	}
	effective, permitted := binary.NativeEndian.Uint32(data[:]) != 0, binary.NativeEndian.Uint32(data[4:]) != 0
	return c.become(func(creds *Credentials) error {
		if creds.UID.E == 0 {
			return nil
		}
		if !creds.permitted && (effective || permitted) {
			return unix.EPERM
		}
		creds.permitted, creds.effective = permitted, effective
		return nil
	})
}

// prctl answers what is asked about capabilities (Prctl).
func prctl(c *call) answer {
	switch c.args[0] {
	case unix.PR_SET_KEEPCAPS:
		return c.become(func(creds *Credentials) error { creds.keep = c.args[1] != 0; return nil })
	case unix.PR_CAPBSET_READ:
		if c.args[1] > unix.CAP_LAST_CAP {
			return fail(unix.EINVAL)
		}
		return value(CapabilityBits >> c.args[1] & 1)
	case unix.PR_GET_SECUREBITS:
		return value(0)
	case unix.PR_CAP_AMBIENT:
		if c.args[1] == unix.PR_CAP_AMBIENT_IS_SET || c.args[1] == unix.PR_CAP_AMBIENT_CLEAR_ALL || c.args[1] == unix.PR_CAP_AMBIENT_LOWER {
			return value(0)
		}
		return fail(unix.EPERM)
	}
	if !c.Creds().Capable() {
		return fail(unix.EPERM)
	}
	return value(0)
}
