package fakeid

import (
	"encoding/binary"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
	"github.com/cairn-build/cairn/pkg/fakeroot"
)

func selfFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// mayChange checks whether the task may make and remove names in a directory.
func (c *call) mayChange(dir *place) error { return c.access(dir, unix.W_OK|unix.X_OK) }

// making looks up where a call makes a name, by the directory's descriptor in one argument and the path in the next. pass means that the
// kernel can do it: the task is root, and the directory hands no group on.
func (c *call) making(arg int, follow bool) (w walked, pass bool, err error) {
	p, err := c.memory().Path(c.args[arg+1])
	if err != nil || p == "" {
		return walked{}, true, nil
	}
	if c.root() {
		parent := path.Dir(strings.TrimRight(p, "/"))
		dir, err := c.find(c.int(arg), parent, true)
		if err != nil {
			return walked{}, true, nil
		}
		dir.close()
		if dir.st.Mode&unix.S_ISGID == 0 || dir.said.Of(&dir.st).GID == 0 {
			return walked{}, true, nil
		}
	}
	w, err = c.walk(c.int(arg), p, follow)
	if err != nil && err != errDenied {
		return walked{}, true, nil
	}
	if err == nil && !w.missing {
		if !follow {
			w.close()
			return walked{}, true, nil // EEXIST
		}
		return w, false, nil
	}
	if err == nil {
		if err = c.mayChange(&w.dir); err != nil {
			w.close()
		}
	}
	if err == errDenied {
		err = unix.EACCES
	}
	return w, false, err
}

// make carries out the making of a name by f, which makes it in a directory with a mode, and notes whose it is.
func (c *call) make(arg int, mode uint32, f func(dir int, base string, mode uint32) error) notify.Answer {
	w, pass, err := c.making(arg, false)
	if pass || err != nil {
		return c.passOr(err)
	}
	defer w.close()
	mode &= 0o7777 &^ c.person.umask
	if err := f(w.dir.fd, w.base, mode); err != nil {
		return notify.Fail(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(w.dir.fd, w.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return notify.Fail(err)
	}
	if mode&c.ownUmask != 0 && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(w.dir.fd, w.base, mode|st.Mode&unix.S_ISGID, 0); err != nil {
			return notify.Fail(err)
		}
	}
	c.note(&st, &w.dir)
	return notify.Value(0)
}

func (c *call) passOr(err error) notify.Answer {
	if err != nil {
		return notify.Fail(err)
	}
	return notify.Pass()
}

// note says whose a new file is.
func (c *call) note(st *unix.Stat_t, dir *place) {
	m := fakeroot.Meta{UID: c.person.UID.FS, GID: c.person.GID.FS}
	if dir.st.Mode&unix.S_ISGID != 0 {
		m.GID = dir.said.Of(&dir.st).GID
	}
	dir.said.Drop(fakeroot.KeyOf(st))
	if m.UID != 0 || m.GID != 0 {
		dir.said.Set(fakeroot.KeyOf(st), m)
	}
}

func mkdirat(c *call) notify.Answer {
	return c.make(0, c.u32(2)&0o1777, unix.Mkdirat)
}

func symlinkat(c *call) notify.Answer {
	target, err := c.memory().Path(c.args[0])
	if err != nil || target == "" {
		return notify.Pass()
	}
	return c.make(1, 0o777, func(dir int, base string, _ uint32) error { return unix.Symlinkat(target, dir, base) })
}

// mknodat makes a socket in the place of a device, which the kernel lets nobody make here: it can be renamed, linked and given away like one, and
// nobody can open it.
func mknodat(c *call) notify.Answer {
	kind := c.u32(2) & unix.S_IFMT
	switch {
	case kind == unix.S_IFCHR && c.u32(3) == 0:
		return notify.Pass() // an overlay's mark
	case kind != unix.S_IFCHR && kind != unix.S_IFBLK:
		return c.make(0, c.u32(2), func(dir int, base string, mode uint32) error {
			return unix.Mknodat(dir, base, kind|mode, 0)
		})
	case !c.mayMakeDevices():
		return notify.Fail(unix.EPERM)
	}
	p, err := c.memory().Path(c.args[1])
	if err != nil || p == "" {
		return notify.Pass()
	}
	w, err := c.walk(c.int(0), p, false)
	if err != nil {
		return c.problem(err)
	}
	defer w.close()
	if !w.missing {
		return notify.Fail(unix.EEXIST)
	}
	mode := c.u32(2) & 0o7777 &^ c.person.umask
	if err := unix.Mknodat(w.dir.fd, w.base, unix.S_IFSOCK|mode, 0); err != nil {
		return notify.Fail(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(w.dir.fd, w.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return notify.Fail(err)
	}
	if mode&c.ownUmask != 0 {
		_ = unix.Fchmodat(w.dir.fd, w.base, mode, 0)
	}
	c.note(&st, &w.dir)
	w.dir.said.Update(&st, func(m *fakeroot.Meta) { m.Type, m.Rdev = kind, uint64(c.u32(3)) })
	return notify.Value(0)
}

// linkat: another name of a file has the same owner; who may link is a matter of the directory alone. The link is made here, since an overlay may show
// it by another number than the file.
func linkat(c *call) notify.Answer {
	p, err := c.memory().Path(c.args[3])
	if err != nil || p == "" || strings.HasSuffix(p, "/") || c.args[4]&^(unix.AT_SYMLINK_FOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return notify.Pass() // which the kernel refuses
	}
	if c.args[1] == 0 {
		return c.linkUnseen(nil)
	}
	at, err := c.at(0, c.args[4]&unix.AT_SYMLINK_FOLLOW != 0, c.args[4])
	if err != nil {
		return c.linkUnseen(err)
	}
	defer at.close()
	at.settle()
	w, err := c.walk(c.int(2), p, false)
	if err != nil {
		return c.problem(err)
	}
	defer w.close()
	if !w.missing {
		return notify.Fail(unix.EEXIST)
	}
	if err := c.mayChange(&w.dir); err != nil {
		return notify.Fail(err)
	}
	if err := unix.Linkat(unix.AT_FDCWD, selfFD(at.fd), w.dir.fd, w.base, unix.AT_SYMLINK_FOLLOW); err != nil {
		return notify.Fail(err)
	}
	var was, is unix.Stat_t
	if err := unix.Fstat(at.fd, &was); err == nil && unix.Fstatat(w.dir.fd, w.base, &is, unix.AT_SYMLINK_NOFOLLOW) == nil {
		at.said.Same(fakeroot.KeyOf(&was), fakeroot.KeyOf(&is))
	}
	return notify.Value(0)
}

// linkUnseen has the kernel link what cannot be looked up here, if the task may.
func (c *call) linkUnseen(problem error) notify.Answer {
	if !c.root() {
		w, pass, err := c.making(2, false)
		if err != nil {
			return notify.Fail(err)
		}
		if !pass {
			w.close()
		}
	}
	return c.problem(problem)
}

// taking looks up what a call removes or replaces. pass means that the kernel can do it: it is allowed, and nothing is said of the file.
func (c *call) taking(dirfd int32, p string) (w walked, pass bool, err error) {
	if c.root() {
		at, err := c.find(dirfd, p, false)
		if err != nil {
			return walked{}, true, nil
		}
		at.close()
		if _, said := at.said.Get(fakeroot.KeyOf(&at.st)); !said {
			return walked{}, true, nil
		}
	}
	w, err = c.walk(dirfd, strings.TrimRight(p, "/"), false)
	switch {
	case err == errDenied:
		return walked{}, false, unix.EACCES
	case err != nil:
		return walked{}, true, nil
	}
	if err = c.mayChange(&w.dir); err == nil && !w.missing && !c.root() {
		if d := w.dir.said.Of(&w.dir.st); d.Mode&unix.S_ISVTX != 0 && d.UID != c.person.UID.FS && !c.owns(&w.at) {
			err = unix.EPERM
		}
	}
	if err != nil {
		w.close()
		return walked{}, false, err
	}
	if w.missing || w.base == "." || w.base == ".." {
		w.close()
		return walked{}, true, nil
	}
	return w, false, nil
}

// gone forgets what was said of a file that has lost its last name.
func (c *call) gone(at *place) {
	if at.st.Nlink <= 1 || at.kind() == unix.S_IFDIR {
		at.said.Drop(fakeroot.KeyOf(&at.st))
	}
}

func unlinkat(c *call) notify.Answer {
	p, err := c.memory().Path(c.args[1])
	if err != nil || p == "" {
		return notify.Pass()
	}
	w, pass, err := c.taking(c.int(0), p)
	if pass || err != nil {
		return c.passOr(err)
	}
	defer w.close()
	flags := int(c.args[2])
	if strings.HasSuffix(p, "/") && flags&unix.AT_REMOVEDIR == 0 {
		return notify.Fail(unix.ENOTDIR)
	}
	if err := unix.Unlinkat(w.dir.fd, w.base, flags); err != nil {
		return notify.Fail(err)
	}
	c.gone(&w.at)
	return notify.Value(0)
}

// renameat lets the kernel rename, unless something is said of the file that is replaced.
func renameat(c *call) notify.Answer {
	from, err := c.memory().Path(c.args[1])
	if err != nil || from == "" {
		return notify.Pass()
	}
	to, err := c.memory().Path(c.args[3])
	if err != nil || to == "" || strings.HasSuffix(to, "/") || strings.HasSuffix(from, "/") {
		return notify.Pass()
	}
	if !c.root() {
		old, _, err := c.taking(c.int(0), from)
		if err != nil {
			return notify.Fail(err)
		}
		if old.base != "" {
			old.close()
		}
	}
	if at, err := c.find(c.int(0), from, false); err == nil {
		at.settle()
		at.close()
	}
	over, pass, err := c.taking(c.int(2), to)
	if pass || err != nil {
		return c.passOr(err)
	}
	defer over.close()
	flags := uint(c.args[4])
	if flags != 0 {
		return notify.Pass() // nothing is lost by an exchange
	}
	old, err := c.walk(c.int(0), from, false)
	if err != nil {
		return c.problem(err)
	}
	defer old.close()
	if old.missing {
		return notify.Pass()
	}
	if err := unix.Renameat2(old.dir.fd, old.base, over.dir.fd, over.base, flags); err != nil {
		return notify.Fail(err)
	}
	if fakeroot.KeyOf(&old.at.st) != fakeroot.KeyOf(&over.at.st) {
		c.gone(&over.at)
	}
	return notify.Value(0)
}

func openat(c *call) notify.Answer { return c.openWith(int(c.args[2]), c.u32(3)) }

func openat2(c *call) notify.Answer {
	var how [24]byte
	if c.memory().Read(c.args[2], how[:]) < len(how) {
		return notify.Pass()
	}
	return c.openWith(int(binary.NativeEndian.Uint64(how[:])), uint32(binary.NativeEndian.Uint64(how[8:])))
}

// openWith has the kernel open what is there and may be opened, and makes what is not.
func (c *call) openWith(flags int, mode uint32) notify.Answer {
	temporary := flags&unix.O_TMPFILE == unix.O_TMPFILE
	creates := flags&unix.O_CREAT != 0 && flags&unix.O_PATH == 0
	if c.root() && (flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0) {
		if at, err := c.at(0, flags&unix.O_NOFOLLOW == 0, 0); err == nil {
			at.settle()
			at.close()
		}
	}
	switch {
	case c.root() && !creates:
		return notify.Pass()
	case temporary || !creates:
		at, err := c.at(0, flags&unix.O_NOFOLLOW == 0, 0)
		if err != nil {
			return c.problem(err)
		}
		defer at.close()
		if temporary {
			return c.allow(c.mayChange(&at))
		}
		return c.allow(c.mayOpen(&at, flags))
	}
	w, pass, err := c.making(0, flags&unix.O_NOFOLLOW == 0 && flags&unix.O_EXCL == 0)
	if pass && !c.root() {
		return c.openExisting(flags)
	}
	if pass || err != nil {
		return c.passOr(err)
	}
	defer w.close()
	if !w.missing {
		return c.allow(c.mayOpen(&w.at, flags))
	}
	mode &= 0o7777 &^ c.person.umask
	const kept = unix.O_ACCMODE | unix.O_APPEND | unix.O_NONBLOCK | unix.O_DSYNC | unix.O_SYNC | unix.O_DIRECT | unix.O_NOATIME | unix.O_LARGEFILE
	fd, err := unix.Openat(w.dir.fd, w.base, flags&kept|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NOCTTY, mode)
	if err == unix.EEXIST {
		return notify.Pass() // somebody else was faster
	}
	if err != nil {
		return notify.Fail(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return notify.Fail(err)
	}
	if mode&c.ownUmask != 0 {
		_ = unix.Fchmod(fd, mode)
	}
	c.note(&st, &w.dir)
	return notify.Answer{FD: fd, IsFD: true, CloseOnExec: flags&unix.O_CLOEXEC != 0}
}

// openExisting is an open with O_CREAT by a task that is not root where nothing is made.
func (c *call) openExisting(flags int) notify.Answer {
	at, err := c.at(0, flags&unix.O_NOFOLLOW == 0, 0)
	if err != nil {
		return c.problem(err)
	}
	defer at.close()
	return c.allow(c.mayOpen(&at, flags))
}

func (c *call) mayOpen(at *place, flags int) error {
	if flags&unix.O_PATH != 0 || at.kind() == unix.S_IFLNK {
		return nil
	}
	want := uint32(unix.R_OK)
	switch flags & unix.O_ACCMODE {
	case unix.O_WRONLY:
		want = unix.W_OK
	case unix.O_RDWR:
		want = unix.R_OK | unix.W_OK
	}
	if flags&unix.O_TRUNC != 0 {
		want |= unix.W_OK
	}
	return c.access(at, want)
}

// mayMakeDevices reports whether the task is root. Where owners are real, so are users, and so is the umask.
func (c *call) mayMakeDevices() bool {
	if c.mode == Everything {
		return c.root()
	}
	status, err := os.ReadFile(c.proc("status"))
	if err != nil {
		return false
	}
	c.person.umask = umaskIn(string(status))
	_, rest, _ := strings.Cut(string(status), "\nUid:")
	line, _, _ := strings.Cut(rest, "\n")
	ids := strings.Fields(line)
	return len(ids) == 4 && ids[3] == "0"
}
