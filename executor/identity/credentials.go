// Package identity imitates who a process is where the kernel has one user only: user and group ids, capabilities, and the calls by which
// they are asked for and changed.
package identity

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// IDs are the three ids that a task has of users, and of groups, and the one that counts for files.
type IDs struct{ R, E, S, FS uint32 }

// Same are ids that are all one.
func Same(id uint32) IDs { return IDs{id, id, id, id} }

// Has reports whether id is the real, effective or saved one.
func (i IDs) Has(id uint32) bool { return id == i.R || id == i.E || id == i.S }

// Line is the ids as /proc/PID/status has them.
func (i IDs) Line() string {
	var out []string
	for _, id := range []uint32{i.R, i.E, i.S, i.FS} {
		out = append(out, strconv.FormatUint(uint64(id), 10))
	}
	return strings.Join(out, "\t")
}

// Credentials are who a task is. It is a value; Groups is never changed, only replaced.
type Credentials struct {
	UID, GID IDs
	Groups   []uint32
	// Root has its capabilities whatever these say. keep is PR_SET_KEEPCAPS; who then becomes another user has them permitted, and effective
	// again once capset(2) has said so, until the next exec. They count for ids, not for files.
	keep, permitted, effective bool
}

// Equal reports whether two are the same.
func (c Credentials) Equal(o Credentials) bool {
	return c.UID == o.UID && c.GID == o.GID && c.keep == o.keep && c.permitted == o.permitted && c.effective == o.effective &&
		slices.Equal(c.Groups, o.Groups)
}

// Capable reports whether ids may be changed at will.
func (c Credentials) Capable() bool { return c.UID.E == 0 || c.effective }

// In reports whether a group counts for files.
func (c Credentials) In(gid uint32) bool { return c.GID.FS == gid || slices.Contains(c.Groups, gid) }

// Allows checks permission bits as the kernel does for who is not root (path_resolution(7)).
func (c Credentials) Allows(uid, gid, mode, want uint32) error {
	bits := mode & 7
	switch {
	case c.UID.FS == uid:
		bits = mode >> 6 & 7
	case c.In(gid):
		bits = mode >> 3 & 7
	}
	if want&^bits != 0 {
		return unix.EACCES
	}
	return nil
}

// Execute makes of the credentials those after an execve. setuid and setgid are the program's owner where it has the bits, else nil.
func (c Credentials) Execute(setuid, setgid *uint32) Credentials {
	if setuid != nil {
		c.UID.E = *setuid
	}
	if setgid != nil {
		c.GID.E = *setgid
	}
	c.UID.S, c.UID.FS, c.GID.S, c.GID.FS = c.UID.E, c.UID.E, c.GID.E, c.GID.E
	c.keep, c.permitted, c.effective = false, false, false
	return c
}

// Capabilities are docker's default capabilities, which root has: as a number, and as /proc/PID/status writes them.
const (
	CapabilityBits = 0xa80425fb
	Capabilities   = "00000000a80425fb"
)
