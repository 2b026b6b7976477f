package fakeid

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
)

// onPeer notifies of the getsockopt(2) that asks who is at the other end of a Unix socket.
func onPeer() []unix.SockFilter {
	return []unix.SockFilter{
		equal(unix.SYS_GETSOCKOPT, 0, 6), load(offsetArg0 + 8), equal(unix.SOL_SOCKET, 0, 3), load(offsetArg0 + 16), equal(unix.SO_PEERCRED, 0, 1),
		ret(unix.SECCOMP_RET_USER_NOTIF), ret(unix.SECCOMP_RET_ALLOW),
	}
}

// note remembers who a process is when the kernel does, in a socket.
func note(how identity.Noting) handler {
	return func(c *call) notify.Answer {
		process, who := c.asPeer()
		c.peers.Note(process, how, who)
		return notify.Pass()
	}
}

// connect is note for a Unix socket that connects, or may.
func connect(c *call) notify.Answer {
	var family [2]byte
	var st unix.Stat_t
	if c.memory().ReadFull(c.args[1], family[:]) == nil && binary.NativeEndian.Uint16(family[:]) == unix.AF_UNIX && unix.Stat(c.fdName(c.int(0)), &st) == nil {
		process, who := c.asPeer()
		c.peers.Connect(process, st.Ino, who)
	}
	return notify.Pass()
}

// asPeer is the task's process, by the number that it has here, as others are to see it.
func (c *call) asPeer() (process int, who identity.Peer) {
	process = number(statusLine(c.tid, "Tgid"))
	return process, identity.Peer{Credentials: c.person.Credentials, PID: number(statusLine(process, "NSpid"))}
}

// number is 0 where a task is gone.
func number(word string) int {
	n, _ := strconv.Atoi(word)
	return n
}

// wasAtOtherEnd says who a process was that the kernel names as the other end of the task's socket. One that nobody saw is who it is now.
func (c *call) wasAtOtherEnd(pid int) identity.Peer {
	var st unix.Stat_t
	table, err := os.ReadFile(c.proc("net/unix"))
	if err == nil && unix.Stat(c.fdName(c.int(0)), &st) == nil {
		if who, seen := c.peers.Of(pid, st.Ino, table); seen {
			return who
		}
	}
	who := identity.Peer{Credentials: c.people[c.number(pid)].Credentials, PID: pid}
	if inner := number(statusLine(pid, "NSpid")); inner > 0 {
		who.PID = inner
	}
	return who
}

// peer answers it, which servers go by (ssh-agent, dbus, PostgreSQL), with who that process is said to have been. Where the task's socket cannot be had, the
// kernel says root.
func peer(c *call) notify.Answer {
	var size [4]byte
	if c.memory().ReadFull(c.args[4], size[:]) != nil || binary.NativeEndian.Uint32(size[:]) < unix.SizeofUcred {
		return notify.Pass()
	}
	cred, err := c.kernelsPeer()
	if err != nil || cred.Pid == 0 {
		return notify.Pass()
	}
	said := c.wasAtOtherEnd(int(cred.Pid))
	cred.Pid, cred.Uid, cred.Gid = int32(said.PID), said.UID.E, said.GID.E
	if err := c.memory().Write(c.args[3], notify.BytesOf(cred)); err != nil {
		return notify.Fail(err)
	}
	return notify.ErrorOrZero(c.memory().Words(c.args[4], unix.SizeofUcred))
}

// kernelsPeer asks the kernel, by a copy of the task's descriptor.
func (c *call) kernelsPeer() (*unix.Ucred, error) {
	fd, err := c.descriptor(c.int(0))
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
}

// descriptor is a copy of one of the task's, which is the caller's to close. Not every place allows it.
func (c *call) descriptor(fd int32) (int, error) {
	pidfd, err := unix.PidfdOpen(number(statusLine(c.tid, "Tgid")), 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	return unix.PidfdGetfd(pidfd, int(fd), 0)
}

// bind makes the file of a Unix socket, whose owner is to be whoever binds it. By what name it was bound, which getsockname tells, is another then.
func bind(c *call) notify.Answer {
	size := c.args[2]
	if size < 4 || size > unix.SizeofSockaddrUnix {
		return notify.Pass()
	}
	addr := make([]byte, size)
	if c.memory().ReadFull(c.args[1], addr) != nil || binary.NativeEndian.Uint16(addr) != unix.AF_UNIX || addr[2] == 0 ||
		!bytes.Contains(addr[2:], []byte{0}) {
		return notify.Pass()
	}
	socket, err := c.descriptor(c.int(0))
	if err != nil {
		return notify.Pass()
	}
	defer unix.Close(socket)
	path := *c
	path.args = [6]uint64{cwd, c.args[1] + 2} // where the name begins in an address
	return path.make(0, 0o777, func(dir int, base string, mode uint32) error {
		if err := unix.Bind(socket, &unix.SockaddrUnix{Name: selfFD(dir) + "/" + base}); err != nil {
			return err
		}
		return unix.Fchmodat(dir, base, mode, 0) // the umask was this process's
	})
}

// statusLine returns the last word of a line of /proc/PID/status.
func statusLine(pid int, name string) string {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	_, rest, _ := strings.Cut(string(b), "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return ""
	}
	return words[len(words)-1]
}
