package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

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
