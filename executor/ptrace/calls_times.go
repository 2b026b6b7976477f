package ptrace

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// modify looks up a file whose content or times a task wants to change, and makes sure that it is this root filesystem's alone.
func (c *call) modify(at *place, owner bool) error {
	if at.mount.ReadOnly {
		return unix.EROFS
	}
	if owner && !c.owns(at) {
		return unix.EPERM
	}
	if !owner {
		if err := c.resolver().access(at, unix.W_OK); err != nil {
			return err
		}
	}
	return c.unshare(at)
}

// owns reports whether a task may change the metadata of a file.
func (c *call) owns(at *place) bool {
	return c.task.privileged() || at.owners().Of(&at.st).UID == c.task.creds().UID.FS
}

func truncate(c *call, at *place) answer {
	if err := c.modify(at, false); err != nil {
		return fail(err)
	}
	return errorOrZero(unix.Truncate(at.file(), int64(c.args[1])))
}

// setTimes changes the times of a file found by a path or descriptor; nil is now.
func (c *call) setTimes(at *place, ts []unix.Timespec) error {
	if ts == nil {
		ts = []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	}
	if ts[0].Nsec == unix.UTIME_OMIT && ts[1].Nsec == unix.UTIME_OMIT {
		return nil
	}
	now := ts[0].Nsec == unix.UTIME_NOW && ts[1].Nsec == unix.UTIME_NOW
	if err := c.modify(at, !now || c.owns(at)); err != nil {
		return err
	}
	if at.isLink() {
		dir, base, err := c.resolver().parent(unix.AT_FDCWD, at.path)
		if err != nil {
			return err
		}
		defer dir.close()
		return unix.UtimesNanoAt(dir.fd, base, ts, unix.AT_SYMLINK_NOFOLLOW)
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, at.file(), ts, 0)
}

func utimensat(c *call) answer {
	var ts []unix.Timespec
	if c.args[2] != 0 {
		ts = make([]unix.Timespec, 2)
		var b [32]byte
		if err := c.memory().ReadFull(c.args[2], b[:]); err != nil {
			return fail(err)
		}
		for i := range ts {
			ts[i] = unix.Timespec{Sec: int64(binary.NativeEndian.Uint64(b[i*16:])), Nsec: int64(binary.NativeEndian.Uint64(b[i*16+8:]))}
		}
	}
	var at place
	var err error
	if c.args[1] == 0 {
		at, err = c.open(c.int(0))
	} else {
		at, err = c.findEmpty(0, c.args[3])
	}
	if err != nil {
		return fail(err)
	}
	defer at.close()
	return errorOrZero(c.setTimes(&at, ts))
}

// The units in which old calls give times.
const (
	unitSeconds = iota
	unitMicro
)

func utimes(unit int) handler {
	return func(c *call) answer {
		at, err := c.find(0, true)
		if err != nil {
			return fail(err)
		}
		defer at.close()
		var ts []unix.Timespec
		if c.args[2] != 0 {
			var b [32]byte
			n := len(b)
			if unit == unitSeconds {
				n = 16
			}
			if err := c.memory().ReadFull(c.args[2], b[:n]); err != nil {
				return fail(err)
			}
			word := func(i int) int64 { return int64(binary.NativeEndian.Uint64(b[i*8:])) }
			if unit == unitSeconds {
				ts = []unix.Timespec{{Sec: word(0)}, {Sec: word(1)}}
			} else {
				micro := int64(time.Microsecond)
				ts = []unix.Timespec{{Sec: word(0), Nsec: word(1) * micro}, {Sec: word(2), Nsec: word(3) * micro}}
			}
		}
		return errorOrZero(c.setTimes(&at, ts))
	}
}
