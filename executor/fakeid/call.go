package fakeid

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
)

// call is one system call that waits for its answer.
type call struct {
	*Supervisor
	tid    int
	args   [6]uint64
	person person
}

type handler func(c *call) notify.Answer

func (c *call) int(i int) int32       { return int32(c.args[i]) }
func (c *call) u32(i int) uint32      { return uint32(c.args[i]) }
func (c *call) memory() notify.Memory { return notify.Memory(c.tid) }

// root reports whether the task may do everything with files.
func (c *call) root() bool { return c.person.UID.FS == 0 || c.person.entering }

// who is a call as one about identity.
type who struct{ *call }

func (w who) Memory() notify.Memory       { return w.memory() }
func (w who) Creds() identity.Credentials { return w.person.Credentials }
func (w who) SetCreds(c identity.Credentials) {
	w.person.Credentials = c
	w.become(w.tid, w.person)
}

// Other is asked for with a number of the task's own pid namespace, which says nothing here: nearly always it is its own.
func (w who) Other(int) (identity.Credentials, bool) { return w.person.Credentials, true }

// proc is where the task is found, by the number it has here.
func (c *call) proc(name string) string { return "/proc/" + strconv.Itoa(c.tid) + "/" + name }

// fdName is a name of what the task has open, or of its working directory.
func (c *call) fdName(fd int32) string {
	if fd == unix.AT_FDCWD {
		return c.proc("cwd")
	}
	return c.proc("fd/" + strconv.Itoa(int(fd)))
}

// umaskIn finds the umask in a /proc/PID/status; all bits if it is not there.
func umaskIn(status string) uint32 {
	_, rest, _ := strings.Cut(status, "\nUmask:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseUint(strings.TrimSpace(line), 8, 32)
	if err != nil {
		return 0o777
	}
	return uint32(n)
}

// handlers are the calls that are notified of, by number.
func handlers(m Mode) map[int]handler {
	if m == Devices {
		return deviceHandlers()
	}
	h := map[int]handler{
		unix.SYS_FSTAT: fstat, unix.SYS_STATX: statx,
		unix.SYS_FCHOWN: fchown, unix.SYS_FCHOWNAT: fchownat,
		unix.SYS_FCHMOD: onFD(mayOwn), unix.SYS_FCHMODAT: with(onPath(0, follow, mayOwn), set(3, 0)), unix.SYS_FCHMODAT2: onPath(0, flagsIn(3), mayOwn),
		unix.SYS_UTIMENSAT: onPath(0, flagsIn(3), mayTouch), unix.SYS_TRUNCATE: legacy(onPath(0, follow, mayWrite)),
		unix.SYS_MKDIRAT: mkdirat, unix.SYS_MKNODAT: mknodat, unix.SYS_SYMLINKAT: symlinkat, unix.SYS_LINKAT: linkat,
		unix.SYS_UNLINKAT: unlinkat, unix.SYS_RENAMEAT: with(renameat, set(4, 0)), unix.SYS_RENAMEAT2: renameat,
		unix.SYS_OPENAT: openat, unix.SYS_OPENAT2: openat2,
		unix.SYS_FACCESSAT: with(faccessat, set(3, 0)), unix.SYS_FACCESSAT2: faccessat,
		unix.SYS_READLINKAT: with(onLook(0, nofollow, maySee), set(3, 0)), unix.SYS_CHDIR: legacy(onLook(0, follow, mayEnter)), unix.SYS_CHROOT: chroot,
		unix.SYS_EXECVE: legacy(with(execveat, set(4, 0))), unix.SYS_EXECVEAT: execveat,
		unix.SYS_SETXATTR: legacy(onPath(0, follow, mayXattr(2))), unix.SYS_LSETXATTR: legacy(onPath(0, nofollow, mayXattr(2))),
		unix.SYS_FSETXATTR: onFD(mayXattr(1)), unix.SYS_REMOVEXATTR: legacy(onPath(0, follow, mayXattr(2))),
		unix.SYS_LREMOVEXATTR: legacy(onPath(0, nofollow, mayXattr(2))), unix.SYS_FREMOVEXATTR: onFD(mayXattr(1)),
		unix.SYS_UMASK: umask, unix.SYS_PRLIMIT64: prlimit, unix.SYS_GETSOCKOPT: peer, unix.SYS_BIND: bind,
		unix.SYS_CONNECT: connect, unix.SYS_LISTEN: note(identity.Listening), unix.SYS_SOCKETPAIR: note(identity.Pairing),
	}
	for nr, f := range identity.Handlers() {
		h[nr] = func(c *call) notify.Answer { return f(who{c}, c.args) }
	}
	for nr, f := range legacyHandlers() {
		h[nr] = f
	}
	return h
}

// shape makes the arguments of the newest form of a call of those of another.
type shape func(a [6]uint64) [6]uint64

func with(h handler, s shape) handler {
	return func(c *call) notify.Answer {
		c.args = s(c.args)
		return h(c)
	}
}

func set(i int, v uint64) shape {
	return func(a [6]uint64) [6]uint64 {
		a[i] = v
		return a
	}
}

const cwd = uint64(0xffffffff_ffffff9c) // AT_FDCWD

// legacy is a call without a directory descriptor: path, and what follows.
func legacy(h handler, extra ...uint64) handler {
	return with(h, func(a [6]uint64) [6]uint64 {
		out := [6]uint64{cwd, a[0], a[1], a[2], a[3], a[4]}
		copy(out[2:], extra)
		return out
	})
}

// links says whether a link at the end of a path is followed, by the arguments of the call.
type links func(c *call) bool

func follow(*call) bool   { return true }
func nofollow(*call) bool { return false }

func flagsIn(arg int) links {
	return func(c *call) bool { return c.args[arg]&unix.AT_SYMLINK_NOFOLLOW == 0 }
}

// onLook is a call that the kernel carries out, if f allows it to a task that is not root. The path is in the argument after the directory's.
func onLook(arg int, l links, f func(c *call, at *place) error) handler {
	return func(c *call) notify.Answer {
		if c.root() {
			return notify.Pass()
		}
		at, err := c.at(arg, l(c), c.args[3])
		if err != nil {
			return c.problem(err)
		}
		defer at.close()
		return c.allow(f(c, &at))
	}
}

// onPath is onLook for a call that changes the file.
func onPath(arg int, l links, f func(c *call, at *place) error) handler {
	return func(c *call) notify.Answer {
		at, err := c.at(arg, l(c), c.args[3])
		if err != nil {
			return c.problem(err)
		}
		defer at.close()
		if !c.root() {
			err = f(c, &at)
		}
		if err == nil {
			at.settle()
		}
		return c.allow(err)
	}
}

// onFD is onPath for a call with a descriptor in its first argument.
func onFD(f func(c *call, at *place) error) handler {
	return func(c *call) notify.Answer {
		at, err := c.open(c.int(0))
		if err != nil {
			return notify.Pass()
		}
		defer at.close()
		if !c.root() {
			err = f(c, &at)
		}
		if err == nil {
			at.settle()
		}
		return c.allow(err)
	}
}

// allow has the kernel carry a call out unless there is an error.
func (c *call) allow(err error) notify.Answer {
	if err != nil {
		return notify.Fail(err)
	}
	return notify.Pass()
}

// problem is the answer to a call whose path leads nowhere: what is denied is denied, everything else the kernel knows best.
func (c *call) problem(err error) notify.Answer {
	if err == errDenied {
		return notify.Fail(unix.EACCES)
	}
	return notify.Pass()
}

// umask is the task's own, and ours for what is made for it.
func umask(c *call) notify.Answer {
	c.person.umask = c.u32(0) & 0o777
	c.become(c.tid, c.person)
	return notify.Pass()
}

// prlimit keeps tasks from the limit that is ours.
func prlimit(c *call) notify.Answer {
	if c.args[3] == 0 {
		return notify.Value(0)
	}
	none := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	return notify.ErrorOrZero(c.memory().Write(c.args[3], notify.BytesOf(&none)))
}

// chroot makes that look-ups of absolute paths no longer begin at one directory.
func chroot(c *call) notify.Answer {
	if !c.root() {
		return notify.Fail(unix.EPERM)
	}
	c.chroots = true
	return notify.Pass()
}
