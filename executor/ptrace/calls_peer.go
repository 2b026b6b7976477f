package ptrace

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
)

func (t *task) asPeer() identity.Peer { return identity.Peer{Credentials: t.creds(), PID: t.group.id} }

// note remembers who a task is when the kernel does, in a socket.
func note(how identity.Noting) handler {
	return func(c *call) answer {
		c.peers.Note(c.task.group.id, how, c.task.asPeer())
		return notify.Pass()
	}
}

// connects remembers it for a socket that connects, or may.
func (c *call) connects() error {
	var st unix.Stat_t
	if err := unix.Stat(c.task.fdLink(c.int(0)), &st); err != nil {
		return unix.EBADF
	}
	c.peers.Connect(c.task.group.id, st.Ino, c.task.asPeer())
	return nil
}

// rewritePeer lets the kernel say who is at the other end of a Unix socket, which servers go by (ssh-agent, dbus, PostgreSQL), and puts in who that
// process believed to be then.
func rewritePeer(c *call, _ *scratch) (changed, error) {
	return changed{nr: c.nr, args: c.args, after: c.correctPeer}, nil
}

// correctPeer does it after the call. Memory that cannot be read or written is that of a task that is gone or has given it back meanwhile.
func (c *call) correctPeer() error {
	var peer unix.Ucred
	var size [4]byte
	if c.memory().ReadFull(c.args[4], size[:]) != nil || binary.NativeEndian.Uint32(size[:]) != unix.SizeofUcred {
		return nil
	}
	if c.memory().ReadFull(c.args[3], notify.BytesOf(&peer)) != nil || peer.Uid != uint32(unix.Geteuid()) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(c.task.fdLink(c.int(0)), &st); err != nil {
		return nil // it was closed meanwhile, or the task is gone
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", c.task.id))
	if err != nil {
		return nil // the task is gone
	}
	said, _ := c.peers.Of(int(peer.Pid), st.Ino, table) // who is outside is root
	peer.Uid, peer.Gid = said.UID.E, said.GID.E
	_ = c.memory().Write(c.args[3], notify.BytesOf(&peer))
	return nil
}
