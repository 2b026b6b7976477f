package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
)

func umask(c *call) answer {
	c.task.group.setMask(c.u32(0))
	return notify.Pass() // the kernel's own is for what it makes itself: sockets
}

// kill lets tasks signal each other, and nobody else: beside them, processes of the same user are the builder and what it works with.
func kill(c *call) answer {
	pid, sig := int(c.int(0)), unix.Signal(c.int(1))
	switch {
	case pid > 0:
		if c.tasks.get(pid) == nil {
			return fail(unix.ESRCH)
		}
		return notify.Pass()
	case pid == 0:
		return notify.Pass() // a process group of theirs
	case pid < -1:
		// A process group has its leader's id; it may have left.
		if t := c.tasks.get(-pid); t == nil && !c.groupOfOurs(-pid) {
			return fail(unix.ESRCH)
		}
		return notify.Pass()
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
