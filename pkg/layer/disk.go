package layer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a directory that is written below, by file descriptors alone: every call names one component relative to an open
// directory and follows no symlink, so nothing outside can be reached however hostile the names and whoever else moves files.
type disk struct {
	dirs
	// uid and gid are the owner of what this process creates.
	uid, gid int
	// contents means that only what files hold counts: their metadata is elsewhere (UnpackContents).
	contents bool
	// oneOwner means that nothing gets another owner than this process (UnpackOneOwner).
	oneOwner bool
	buf      []byte
}

func openDisk(dir string) (*disk, error) {
	fds, err := openDirs(dir)
	if err != nil {
		return nil, err
	}
	d := &disk{dirs: fds, uid: -1, gid: -1}
	if err := d.probeOwner(); err != nil {
		d.close()
		return nil, fmt.Errorf("writing in %s: %w", dir, err)
	}
	return d, nil
}

// probeOwner learns who owns new files, which depends on the file system and its mount options, to spare a chown for each.
func (d *disk) probeOwner() error {
	// A setgid directory would hand its group on.
	if err := unix.Fchmod(d.root, 0o700); err != nil {
		return err
	}
	const name = ".probe"
	if err := unix.Mkdirat(d.root, name, 0o700); err != nil {
		return err
	}
	var st unix.Stat_t
	err := unix.Fstatat(d.root, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		d.uid, d.gid = int(st.Uid), int(st.Gid)
	}
	return errors.Join(err, unix.Unlinkat(d.root, name, unix.AT_REMOVEDIR))
}

// make calls f to create a name in a directory, removing what is in the way.
func (d *disk) make(name string, f func(dir int, base string) error) error {
	fd, err := d.dir(parentOf(name))
	if err != nil {
		return err
	}
	base := baseOf(name)
	err = f(fd, base)
	if errors.Is(err, unix.EEXIST) {
		if err = removeAt(fd, base); err == nil {
			err = f(fd, base)
		}
	}
	return err
}

// removeAt removes a name and all below it.
func removeAt(dir int, base string) error {
	err := unix.Unlinkat(dir, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, err := retry(func() (int, error) { return unix.Openat(dir, base, openDirFlags, 0) })
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := removeAt(fd, name); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

// kind returns the type of what is at name, as in the mode of a stat, or 0 if there is nothing.
func (d *disk) kind(name string) (uint32, error) {
	var st unix.Stat_t
	fd, err := d.dir(parentOf(name))
	if err == nil {
		err = unix.Fstatat(fd, baseOf(name), &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return 0, nil
	}
	return st.Mode & unix.S_IFMT, err
}

// mkdir makes a directory that only its owner can use, for now, or keeps one that is there. Something else is removed if
// replace says so.
func (d *disk) mkdir(name string, replace bool) error {
	fd, err := d.dir(parentOf(name))
	if err != nil {
		return err
	}
	base := baseOf(name)
	err = unix.Mkdirat(fd, base, 0o700)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if !replace {
		return &os.PathError{Op: "mkdir", Path: name, Err: unix.ENOTDIR}
	}
	if err := removeAt(fd, base); err != nil {
		return err
	}
	return unix.Mkdirat(fd, base, 0o700)
}

// file writes a regular file with all its metadata.
func (d *disk) file(name string, e *Entry, content io.Reader) error {
	return d.make(name, func(dir int, base string) error {
		fd, err := retry(func() (int, error) {
			return unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		})
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := d.copy(fd, content, e.Size); err != nil {
			return err
		}
		if err := d.describe(fd, e); err != nil {
			return err
		}
		return setTime(dir, base, e.ModTime)
	})
}

func (d *disk) copy(fd int, content io.Reader, size int64) error {
	if d.buf == nil {
		d.buf = make([]byte, copyBuffer)
	}
	for left := size; left > 0; {
		n, err := io.ReadFull(content, d.buf[:min(left, int64(len(d.buf)))])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		left -= int64(n)
		for b := d.buf[:n]; len(b) > 0; {
			m, err := retry(func() (int, error) { return unix.Write(fd, b) })
			if err != nil {
				return err
			}
			b = b[m:]
		}
	}
	return nil
}

// describe sets owner, mode and attributes of a file or directory, in the order in which none undoes another: a chown clears
// setuid and capabilities.
func (d *disk) describe(fd int, e *Entry) error {
	if d.contents {
		return unix.Fchmod(fd, contentMode(e))
	}
	if !d.oneOwner && (e.UID != d.uid || e.GID != d.gid) {
		if err := unix.Fchown(fd, e.UID, e.GID); err != nil {
			return fmt.Errorf("changing the owner to %d:%d: %w", e.UID, e.GID, err)
		}
	}
	if err := unix.Fchmod(fd, uint32(e.Mode)); err != nil {
		return err
	}
	return setXattrs(fd, e.Xattrs)
}

func (d *disk) chown(dir int, base string, e *Entry) error {
	if d.contents || d.oneOwner || e.UID == d.uid && e.GID == d.gid {
		return nil
	}
	if err := unix.Fchownat(dir, base, e.UID, e.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("changing the owner to %d:%d: %w", e.UID, e.GID, err)
	}
	return nil
}

// contentMode is the mode of a file or directory whose owner must always get at it.
func contentMode(e *Entry) uint32 {
	if e.Type == Dir {
		return uint32(e.Mode)&0o777 | 0o700
	}
	return uint32(e.Mode)&0o777 | 0o600
}

func setTime(dir int, base string, t time.Time) error {
	ts := unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	return unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func (d *disk) symlink(name string, e *Entry) error {
	return d.make(name, func(dir int, base string) error {
		if err := unix.Symlinkat(e.Linkname, dir, base); err != nil {
			return err
		}
		if err := d.chown(dir, base, e); err != nil {
			return err
		}
		return setTime(dir, base, e.ModTime)
	})
}

// node makes a device or fifo: a socket where the kernel does not let this process make devices. It reports false where only contents count.
func (d *disk) node(name string, e *Entry) (bool, error) {
	kind, dev := uint32(unix.S_IFIFO), 0
	switch e.Type {
	case Char:
		kind, dev = unix.S_IFCHR, int(unix.Mkdev(e.Devmajor, e.Devminor))
	case Block:
		kind, dev = unix.S_IFBLK, int(unix.Mkdev(e.Devmajor, e.Devminor))
	}
	if d.contents {
		return false, nil
	}
	return true, d.make(name, func(dir int, base string) error {
		err := unix.Mknodat(dir, base, kind|0o600, dev)
		if errors.Is(err, unix.EPERM) && kind != unix.S_IFIFO {
			err = unix.Mknodat(dir, base, unix.S_IFSOCK|0o600, 0)
		}
		if err != nil {
			return err
		}
		if err := d.chown(dir, base, e); err != nil {
			return err
		}
		if err := Chmod(dir, base, uint32(e.Mode)); err != nil {
			return err
		}
		return setTime(dir, base, e.ModTime)
	})
}

// Chmod changes the mode of a name in an open directory, and fails for a symlink. fchmodat2 is of Linux 6.6.
func Chmod(dir int, base string, mode uint32) error {
	err := unix.Fchmodat(dir, base, mode, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, err := retry(func() (int, error) { return unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.ELOOP
	}
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
}

// link makes name a hard link of target.
func (d *disk) link(target, name string) error {
	fd, err := d.dir(parentOf(target))
	if err != nil {
		return err
	}
	from, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return d.make(name, func(dir int, base string) error {
		return unix.Linkat(from, baseOf(target), dir, base, 0)
	})
}

func (d *disk) whiteout(name string) error {
	if d.contents {
		return nil
	}
	return d.make(name, func(dir int, base string) error { return unix.Mknodat(dir, base, unix.S_IFCHR, 0) })
}

// finishDir gives a directory its owner, mode, attributes and time, once nothing more is made in it.
func (d *disk) finishDir(name string, e *Entry, opaque bool) error {
	fd, err := d.dir(name)
	if err != nil {
		return err
	}
	if opaque && !d.contents {
		if err := unix.Fsetxattr(fd, xattrOpaque, []byte("y"), 0); err != nil {
			return &xattrError{xattrOpaque, err}
		}
	}
	if name == "." && !d.contents {
		// It was not made here.
		if err := unix.Fchown(fd, e.UID, e.GID); err != nil {
			return fmt.Errorf("changing the owner to %d:%d: %w", e.UID, e.GID, err)
		}
	}
	if err := d.describe(fd, e); err != nil {
		return err
	}
	if name == "." {
		return setTime(d.root, ".", e.ModTime)
	}
	parent := d.root
	if len(d.stack) > 1 {
		parent = d.stack[len(d.stack)-2].fd
	}
	return setTime(parent, baseOf(name), e.ModTime)
}
