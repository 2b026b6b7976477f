package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
)

// call is one system call of a task that waits for its answer.
type call struct {
	*supervisor
	task *task
	// worker is the thread that carries the call out; nil at a ptrace stop.
	worker *notify.Worker
	// nr is the number of the call, id that of the notification.
	nr   int
	id   uint64
	args [6]uint64
}

// resolver looks up what the call names, which is work enough to let another thread receive meanwhile.
func (c *call) resolver() *resolver {
	c.worker.Share()
	return &resolver{supervisor: c.supervisor, task: c.task}
}

func (c *call) memory() notify.Memory { return c.task.memory() }
func (c *call) int(i int) int32       { return int32(c.args[i]) }
func (c *call) u32(i int) uint32      { return uint32(c.args[i]) }

// find looks up the file that a call names by the descriptor in one argument and the path in the next.
func (c *call) find(arg int, follow bool) (place, error) {
	p, err := c.memory().Path(c.args[arg+1])
	if err != nil {
		return place{}, err
	}
	return c.resolver().find(c.int(arg), p, follow)
}

// findEmpty is find where flags may have AT_EMPTY_PATH or AT_SYMLINK_NOFOLLOW.
func (c *call) findEmpty(arg int, flags uint64) (place, error) {
	p, open, err := c.named(arg, flags)
	switch {
	case err != nil:
		return place{}, err
	case open:
		return c.open(c.int(arg))
	}
	return c.resolver().find(c.int(arg), p, flags&unix.AT_SYMLINK_NOFOLLOW == 0)
}

// named reads the path that a call names a file by, or says that it is about what the task has open.
func (c *call) named(arg int, flags uint64) (path string, open bool, err error) {
	empty := flags&unix.AT_EMPTY_PATH != 0
	if c.args[arg+1] == 0 && empty {
		return "", true, nil // Linux 6.11: no path is the empty path
	}
	path, err = c.memory().Path(c.args[arg+1])
	return path, path == "" && empty && err == nil, err
}

// open returns what a task has open. Where it is in the root filesystem is only known to what asks for it (where).
func (c *call) open(fd int32) (place, error) {
	at := place{fd: -1}
	var err error
	if at.fd, err = unix.Open(c.task.fdLink(fd), unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return place{}, unix.EBADF
	}
	if err := unix.Fstat(at.fd, &at.st); err != nil {
		at.close()
		return place{}, err
	}
	host, _ := hostPath(at.fd)
	at.mount, at.path = c.mounts.of(host)
	return at, nil
}

type answer = notify.Answer

func fail(err error) answer      { return notify.Fail(err) }
func value(v int64) answer       { return notify.Value(v) }
func errorOrZero(e error) answer { return notify.ErrorOrZero(e) }

type handler func(c *call) answer

// who is a call as one about identity.
type who struct{ *call }

func (w who) Memory() notify.Memory           { return w.memory() }
func (w who) Creds() identity.Credentials     { return w.task.creds() }
func (w who) SetCreds(c identity.Credentials) { w.task.setCreds(c) }
func (w who) Other(pid int) (identity.Credentials, bool) {
	t := w.tasks.get(pid)
	if t == nil {
		return identity.Credentials{}, false
	}
	return t.creds(), true
}

// handlers are the calls that are notified of, by number. An entry is the handler with the arguments of the newest form of the call;
// legacyHandlers has the forms that older machines have besides.
func handlers() map[int]handler {
	h := map[int]handler{
		unix.SYS_OPENAT: openat, unix.SYS_OPENAT2: openat2,
		unix.SYS_FSTAT: fstat, unix.SYS_STATX: statx, unix.SYS_STATFS: onPath(true, statfs), unix.SYS_FSTATFS: fstatfs,
		unix.SYS_FACCESSAT: with(faccessat, arg(3, 0)), unix.SYS_FACCESSAT2: faccessat,
		unix.SYS_READLINKAT: readlinkat, unix.SYS_GETCWD: getcwd,
		unix.SYS_MKDIRAT: mkdirat, unix.SYS_MKNODAT: mknodat, unix.SYS_SYMLINKAT: symlinkat, unix.SYS_LINKAT: linkat,
		unix.SYS_UNLINKAT: unlinkat, unix.SYS_RENAMEAT: with(renameat, arg(4, 0)), unix.SYS_RENAMEAT2: renameat,
		unix.SYS_TRUNCATE: onPath(true, truncate), unix.SYS_UTIMENSAT: utimensat,
		unix.SYS_FCHMOD: fchmod, unix.SYS_FCHMODAT: with(fchmodat, arg(3, 0)), unix.SYS_FCHMODAT2: fchmodat,
		unix.SYS_FCHOWN: fchown, unix.SYS_FCHOWNAT: fchownat, unix.SYS_CHROOT: chroot,
		unix.SYS_SETXATTR: setxattr(true), unix.SYS_LSETXATTR: setxattr(false), unix.SYS_FSETXATTR: fsetxattr,
		unix.SYS_GETXATTR: getxattr(true), unix.SYS_LGETXATTR: getxattr(false), unix.SYS_FGETXATTR: fgetxattr,
		unix.SYS_LISTXATTR: listxattr(true), unix.SYS_LLISTXATTR: listxattr(false), unix.SYS_FLISTXATTR: flistxattr,
		unix.SYS_REMOVEXATTR: removexattr(true), unix.SYS_LREMOVEXATTR: removexattr(false), unix.SYS_FREMOVEXATTR: fremovexattr,
		unix.SYS_UMASK: umask, unix.SYS_UNAME: uname, unix.SYS_KILL: kill, unix.SYS_PTRACE: nestedPtrace,
		unix.SYS_LISTEN: note(identity.Listening), unix.SYS_SOCKETPAIR: note(identity.Pairing),
	}
	for nr, f := range identity.Handlers() {
		h[nr] = func(c *call) answer { return f(who{c}, c.args) }
	}
	for nr, f := range legacyHandlers() {
		h[nr] = f
	}
	return h
}

// traced are the calls that are changed before the kernel carries them out, at a ptrace stop.
func traced() map[int]rewrite {
	m := map[int]rewrite{
		unix.SYS_EXECVE: rewriteExec, unix.SYS_EXECVEAT: rewriteExecat, unix.SYS_CHDIR: rewriteChdir,
		unix.SYS_BIND: rewriteSocket(1), unix.SYS_CONNECT: rewriteSocket(1), unix.SYS_SENDTO: rewriteSocket(sendtoAddress),
		unix.SYS_INOTIFY_ADD_WATCH: rewriteInotify, unix.SYS_GETSOCKOPT: rewritePeer,
	}
	for _, o := range openCalls() {
		m[o.nr] = rewriteOpen(o)
	}
	return m
}

// shape makes the arguments of the newest form of a call of those of another.
type shape func(a [6]uint64) [6]uint64

func with(h handler, s shape) handler {
	return func(c *call) answer {
		c.args = s(c.args)
		return h(c)
	}
}

// arg sets one argument.
func arg(i int, v uint64) shape {
	return func(a [6]uint64) [6]uint64 {
		a[i] = v
		return a
	}
}

const cwd = uint64(0xffffffff_ffffff9c) // AT_FDCWD

// at is a call without a directory descriptor: path, and what follows.
func at(extra ...uint64) shape {
	return func(a [6]uint64) [6]uint64 {
		out := [6]uint64{cwd, a[0], a[1], a[2], a[3], a[4]}
		if len(extra) > 0 {
			copy(out[2:], extra)
		}
		return out
	}
}
