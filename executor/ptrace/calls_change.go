package ptrace

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// mayChange checks whether a task may make and remove names in a directory.
func (c *call) mayChange(dir *place) error {
	if dir.mount.ReadOnly {
		return unix.EROFS
	}
	if dir.mount.Kind == procMount {
		return unix.EACCES
	}
	return c.resolver().access(dir, unix.W_OK|unix.X_OK)
}

// created notes who owns a file that a task has made, by its descriptor.
func (c *call) created(fd int, dir *place, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	c.note(&st, dir, mode)
	return nil
}

// note says of a new file what the kernel would have made of it.
func (c *call) note(st *unix.Stat_t, dir *place, mode uint32) {
	creds := c.task.creds()
	m := fakeroot.Meta{UID: creds.UID.FS, GID: creds.GID.FS, Mode: mode}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if parent := dir.owners().Of(&dir.st); parent.Mode&unix.S_ISGID != 0 {
		m.GID = parent.GID
		if isDir {
			m.Mode |= unix.S_ISGID
		}
	}
	dir.owners().Drop(fakeroot.KeyOf(st))
	if m.UID != 0 || m.GID != 0 || m.Mode != st.Mode&0o7777 {
		dir.owners().Set(fakeroot.KeyOf(st), m)
	}
}

// made notes a new name that has no descriptor.
func (c *call) made(dir *place, base string, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		mode = 0o777
	}
	c.note(&st, dir, mode)
	return nil
}

// newName looks up where a name is to be made.
func (c *call) newName(dirfd int32, p string) (dir place, base string, err error) {
	dir, base, err = c.resolver().parent(dirfd, p)
	if err != nil {
		return place{}, "", err
	}
	switch {
	case special(base), c.mounts.is(join(dir.path, base)):
		err = unix.EEXIST
	default:
		var st unix.Stat_t
		if unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			err = unix.EEXIST
		} else {
			err = c.mayChange(&dir)
		}
	}
	if err != nil {
		dir.close()
	}
	return dir, base, err
}

func mkdirat(c *call) answer {
	p, err := c.memory().Path(c.args[1])
	if err != nil {
		return fail(err)
	}
	dir, base, err := c.newName(c.int(0), p)
	if err != nil {
		return fail(err)
	}
	defer dir.close()
	mode := c.u32(2) & 0o1777 &^ c.task.group.mask()
	if err := unix.Mkdirat(dir.fd, base, realMode(mode, true)); err != nil {
		return fail(err)
	}
	return errorOrZero(c.made(&dir, base, mode))
}

// mknodat makes a file in place of a device: no one here could, and nobody can use one in a build.
func mknodat(c *call) answer {
	p, err := c.memory().Path(c.args[1])
	if err != nil {
		return fail(err)
	}
	dir, base, err := c.newName(c.int(0), p)
	if err != nil {
		return fail(err)
	}
	defer dir.close()
	kind, mode := c.u32(2)&unix.S_IFMT, c.u32(2)&0o7777&^c.task.group.mask()
	device := kind == unix.S_IFCHR || kind == unix.S_IFBLK
	real := kind
	switch {
	case device && !c.task.privileged():
		return fail(unix.EPERM)
	case device, kind == 0:
		real = unix.S_IFREG
	case kind == unix.S_IFDIR:
		return fail(unix.EPERM)
	}
	if err := unix.Mknodat(dir.fd, base, real|realMode(mode, false), 0); err != nil {
		return fail(err)
	}
	if err := c.made(&dir, base, mode); err != nil || !device {
		return errorOrZero(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	dir.owners().Update(&st, func(m *fakeroot.Meta) { m.Type, m.Rdev = kind, uint64(c.u32(3)) })
	return value(0)
}

func symlinkat(c *call) answer {
	target, err := c.memory().Path(c.args[0])
	if err != nil {
		return fail(err)
	}
	p, err := c.memory().Path(c.args[2])
	if err != nil {
		return fail(err)
	}
	if target == "" {
		return fail(unix.ENOENT)
	}
	dir, base, err := c.newName(c.int(1), p)
	if err != nil {
		return fail(err)
	}
	defer dir.close()
	if err := unix.Symlinkat(target, dir.fd, base); err != nil {
		return fail(err)
	}
	return errorOrZero(c.made(&dir, base, 0o777))
}

func linkat(c *call) answer {
	flags := c.args[4] & unix.AT_EMPTY_PATH
	if c.args[4]&unix.AT_SYMLINK_FOLLOW == 0 {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	from, err := c.findEmpty(0, flags)
	if err != nil {
		return fail(err)
	}
	defer from.close()
	p, err := c.memory().Path(c.args[3])
	if err != nil {
		return fail(err)
	}
	dir, base, err := c.newName(c.int(2), p)
	if err != nil {
		return fail(err)
	}
	defer dir.close()
	switch {
	case from.isDir():
		return fail(unix.EPERM)
	case from.mount != dir.mount:
		return fail(unix.EXDEV)
	}
	// A file that other root filesystems share has one name in this one.
	if err := c.unshare(&from); err != nil {
		return fail(err)
	}
	if from.isLink() {
		// A link cannot be named by a descriptor: /proc would follow it.
		at, name, err := c.resolver().parent(unix.AT_FDCWD, from.path)
		if err != nil {
			return fail(err)
		}
		defer at.close()
		return errorOrZero(unix.Linkat(at.fd, name, dir.fd, base, 0))
	}
	return errorOrZero(unix.Linkat(unix.AT_FDCWD, from.file(), dir.fd, base, unix.AT_SYMLINK_FOLLOW))
}

// leaving is a file that is about to lose a name. It is held open meanwhile: an inode that was free would be another file's at once, and what is
// said of that must not be forgotten.
type leaving struct {
	fd int
	st unix.Stat_t
}

// leave finds the file that has a name in a directory.
func (p *place) leave(base string) (*leaving, error) {
	l := &leaving{}
	var err error
	if l.fd, err = unix.Openat(p.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if err := unix.Fstat(l.fd, &l.st); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *leaving) close() { unix.Close(l.fd) }

// gone forgets what was said of a file that has lost its last name.
func (l *leaving) gone(t *fakeroot.Table) {
	var now unix.Stat_t
	if unix.Fstat(l.fd, &now) != nil || now.Nlink > 0 && now.Mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	// One that other root filesystems share may still be open here, and must not be changed ever.
	if key := fakeroot.KeyOf(&now); !t.Shared(key) {
		t.Drop(key)
	}
}

// mayRemove checks the sticky bit of a directory.
func (c *call) mayRemove(dir *place, st *unix.Stat_t) error {
	if err := c.mayChange(dir); err != nil || c.task.privileged() {
		return err
	}
	d := dir.owners().Of(&dir.st)
	uid := c.task.creds().UID.FS
	if d.Mode&unix.S_ISVTX != 0 && d.UID != uid && dir.owners().Of(st).UID != uid {
		return unix.EPERM
	}
	return nil
}

func unlinkat(c *call) answer {
	p, err := c.memory().Path(c.args[1])
	if err != nil {
		return fail(err)
	}
	dir, base, err := c.resolver().parent(c.int(0), p)
	if err != nil {
		return fail(err)
	}
	defer dir.close()
	flags := int(c.args[2])
	switch {
	case base == ".." || base == "":
		return fail(unix.ENOTEMPTY)
	case base == ".":
		return fail(unix.EINVAL)
	case c.mounts.is(join(dir.path, base)):
		return fail(unix.EBUSY)
	case flags&^unix.AT_REMOVEDIR != 0:
		return fail(unix.EINVAL)
	}
	file, err := dir.leave(base)
	if err != nil {
		return fail(err)
	}
	defer file.close()
	if p[len(p)-1] == '/' && flags&unix.AT_REMOVEDIR == 0 {
		return fail(unix.ENOTDIR)
	}
	if err := c.mayRemove(&dir, &file.st); err != nil {
		return fail(err)
	}
	if err := unix.Unlinkat(dir.fd, base, flags); err != nil {
		return fail(err)
	}
	c.plain.clear()
	file.gone(dir.owners())
	return value(0)
}

func renameat(c *call) answer {
	oldPath, err := c.memory().Path(c.args[1])
	if err != nil {
		return fail(err)
	}
	newPath, err := c.memory().Path(c.args[3])
	if err != nil {
		return fail(err)
	}
	from, oldBase, err := c.resolver().parent(c.int(0), oldPath)
	if err != nil {
		return fail(err)
	}
	defer from.close()
	to, newBase, err := c.resolver().parent(c.int(2), newPath)
	if err != nil {
		return fail(err)
	}
	defer to.close()
	if special(oldBase) || special(newBase) || c.mounts.is(join(from.path, oldBase)) || c.mounts.is(join(to.path, newBase)) {
		return fail(unix.EBUSY)
	}
	if from.mount != to.mount {
		return fail(unix.EXDEV)
	}
	var old unix.Stat_t
	if err := unix.Fstatat(from.fd, oldBase, &old, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	if err := c.mayRemove(&from, &old); err != nil {
		return fail(err)
	}
	if from.owners().Names(fakeroot.KeyOf(&old)) > 1 {
		if err := c.separateName(&from, oldBase, &old); err != nil {
			return fail(err)
		}
	}
	over, err := to.leave(newBase)
	if err == nil {
		defer over.close()
		err = c.mayRemove(&to, &over.st)
	} else {
		over, err = nil, c.mayChange(&to)
	}
	if err != nil {
		return fail(err)
	}
	flags := uint(c.args[4])
	if flags&unix.RENAME_WHITEOUT != 0 {
		return fail(unix.EPERM)
	}
	if err := unix.Renameat2(from.fd, oldBase, to.fd, newBase, flags); err != nil {
		return fail(err)
	}
	c.plain.clear()
	if over != nil && flags&unix.RENAME_EXCHANGE == 0 && fakeroot.KeyOf(&over.st) != fakeroot.KeyOf(&old) {
		over.gone(to.owners())
	}
	return value(0)
}

// separateName is separate for a name in a directory; st is of the file, and then of the copy.
func (c *call) separateName(dir *place, base string, st *unix.Stat_t) error {
	path := join(dir.path, base)
	m, rest := c.mounts.at(path)
	at, err := c.resolver().open(m, rest, path)
	if err != nil {
		return err
	}
	defer at.close()
	err = c.separate(&at)
	*st = at.st
	return err
}

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

func truncate(c *call) answer {
	p, err := c.memory().Path(c.args[0])
	if err != nil {
		return fail(err)
	}
	at, err := c.resolver().find(unix.AT_FDCWD, p, true)
	if err != nil {
		return fail(err)
	}
	defer at.close()
	if err := c.modify(&at, false); err != nil {
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
