package ptrace

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
)

// rewritePeer lets the kernel say who is at the other end of a Unix socket, which servers go by (ssh-agent, dbus, PostgreSQL), and puts in what that
// task believes to be.
func rewritePeer(c *call, _ *scratch) (changed, error) {
	return changed{nr: c.nr, args: c.args, hold: -1, after: func() { c.correctPeer() }}, nil
}

// correctPeer does it after the call. Whatever fails leaves what the kernel has said.
func (c *call) correctPeer() {
	var peer unix.Ucred
	var size [4]byte
	if c.memory().ReadFull(c.args[4], size[:]) != nil || binary.NativeEndian.Uint32(size[:]) != unix.SizeofUcred {
		return
	}
	if c.memory().ReadFull(c.args[3], notify.BytesOf(&peer)) != nil || peer.Uid != uint32(unix.Geteuid()) {
		return
	}
	var said identity.Credentials // of root, if the task is gone
	if t := c.tasks.get(int(peer.Pid)); t != nil {
		said = t.creds()
	}
	peer.Uid, peer.Gid = said.UID.E, said.GID.E
	_ = c.memory().Write(c.args[3], notify.BytesOf(&peer))
}
