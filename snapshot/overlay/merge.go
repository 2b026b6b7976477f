package overlay

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// merge fills the empty directory dst with what the directories upper, topmost first, show as layers of an overlay mount, with the whiteouts
// and marks that they need over below. Of the directories below only names are read.
//
// Files are copied, sharing their blocks where the file system can. They are not linked to: commands would see the number of links, and overlayfs
// gives a file that has several another inode when it is copied up.
func merge(dst string, upper, below []string) error {
	m := merger{links: map[inode]string{}}
	var all descriptors
	defer all.close()
	to, err := openAt(unix.AT_FDCWD, dst)
	if err != nil {
		return &os.PathError{Op: "open", Path: dst, Err: err}
	}
	all = append(all, to)
	m.root = to
	d := merged{to: to}
	for i, list := range [][]string{upper, below} {
		for _, name := range list {
			fd, err := openAt(unix.AT_FDCWD, name)
			if err != nil {
				return &os.PathError{Op: "open", Path: name, Err: err}
			}
			all = append(all, fd)
			if i == 0 {
				d.parts = append(d.parts, fd)
			} else {
				d.below = append(d.below, fd)
			}
		}
	}
	return m.directory(".", d)
}

func openAt(dir int, name string) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

type inode struct{ dev, ino uint64 }

type merger struct {
	root int
	// links are the paths of files that have several names.
	links map[inode]string
	buf   []byte
}

// merged is one directory on its way: where it is made, and what it is made of.
type merged struct {
	to int
	// parts and below are open directories, topmost first.
	parts, below []int
}

// directory fills a directory and describes it.
func (m *merger) directory(name string, d merged) error {
	names, err := union(d.parts)
	if err != nil {
		return pathError("reading", name, err)
	}
	for _, base := range names {
		if err := m.entry(join(name, base), base, d); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.parts[0], &st); err != nil {
		return pathError("stat", name, err)
	}
	return pathError("describing", name, describe(d.to, d.parts[0], &st))
}

// entry makes one name of a directory.
func (m *merger) entry(name, base string, d merged) error {
	var next merged
	var opened descriptors
	defer func() { opened.close() }()
	up, err := stack(d.parts, base, &opened)
	if err != nil {
		return pathError("opening", name, err)
	}
	next.parts = up.dirs
	low := stacked{}
	if !up.ends || up.kind == whiteout {
		if low, err = stack(d.below, base, &opened); err != nil {
			return pathError("opening", name, err)
		}
	}
	switch up.kind {
	case whiteout:
		if low.kind == nothing || low.kind == whiteout {
			return nil // nothing to hide, and no directory to merge with in which it would not show
		}
		return pathError("removing", name, unix.Mknodat(d.to, base, unix.S_IFCHR, 0))
	case file:
		return pathError("copying", name, m.copy(name, base, up, d.to))
	}
	next.below = low.dirs
	if err := unix.Mkdirat(d.to, base, 0o700); err != nil {
		return pathError("making", name, err)
	}
	if next.to, err = openAt(d.to, base); err != nil {
		return pathError("opening", name, err)
	}
	opened = append(opened, next.to)
	if up.ends {
		// Where there is nothing below the mark does no harm.
		if err := unix.Fsetxattr(next.to, opaqueXattr, []byte("y"), 0); err != nil {
			return pathError("marking", name, err)
		}
	}
	return m.directory(name, next)
}

type kind int

const (
	nothing kind = iota
	whiteout
	file
	directory
)

// stacked is what a name is in a stack of directories.
type stacked struct {
	kind kind
	// ends means that nothing shows through from further below.
	ends bool
	// dirs are the directories of that name that show together, topmost first.
	dirs []int
	// st and in are a file's, and the directory it is in.
	st unix.Stat_t
	in int
}

// stack looks a name up as overlayfs does.
func stack(parts []int, base string, opened *descriptors) (stacked, error) {
	var s stacked
	for _, p := range parts {
		var st unix.Stat_t
		err := unix.Fstatat(p, base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return s, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			s.ends = true
			switch {
			case s.kind != nothing:
			case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
				s.kind = whiteout
			default:
				s.kind, s.st, s.in = file, st, p
			}
			return s, nil
		}
		fd, err := openAt(p, base)
		if err != nil {
			return s, err
		}
		*opened = append(*opened, fd)
		s.kind, s.dirs = directory, append(s.dirs, fd)
		mark := make([]byte, 1)
		if n, err := unix.Fgetxattr(fd, opaqueXattr, mark); err == nil && n == 1 && mark[0] == 'y' {
			s.ends = true
			return s, nil
		}
	}
	return s, nil
}

// union returns all names in directories, sorted.
func union(dirs []int) ([]string, error) {
	var all []string
	for _, d := range dirs {
		fd, err := openAt(d, ".") // reading moves the position
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), "directory")
		names, err := f.Readdirnames(-1)
		f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// copy makes what is no directory.
func (m *merger) copy(name, base string, s stacked, to int) error {
	id := inode{s.st.Dev, s.st.Ino}
	if s.st.Nlink > 1 {
		if first, ok := m.links[id]; ok {
			return unix.Linkat(m.root, first, to, base, 0)
		}
		m.links[id] = name
	}
	switch s.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return m.content(base, s, to)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(s.in, base, buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(buf[:n]), to, base); err != nil {
			return err
		}
		if err := unix.Fchownat(to, base, int(s.st.Uid), int(s.st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(to, base, s.st.Mode&unix.S_IFMT|0o600, int(s.st.Rdev)); err != nil {
			return err
		}
		if err := unix.Fchownat(to, base, int(s.st.Uid), int(s.st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		// No link is followed: it was made here a moment ago, in a directory that nobody else uses.
		if err := unix.Fchmodat(to, base, s.st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(to, base, []unix.Timespec{s.st.Atim, s.st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// content copies a regular file.
func (m *merger) content(base string, s stacked, to int) error {
	from, err := openFile(s.in, base, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := openFile(to, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer f.Close()
	if s.st.Size > 0 && unix.IoctlFileClone(int(f.Fd()), int(from.Fd())) != nil {
		if m.buf == nil {
			m.buf = make([]byte, 64<<10)
		}
		// Most files are small: one read and one write cost less than asking what else could be done.
		if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{from}, m.buf); err != nil {
			return err
		}
	}
	if err := describe(int(f.Fd()), int(from.Fd()), &s.st); err != nil {
		return err
	}
	return f.Close()
}

func openFile(dir int, base string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(dir, base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if !errors.Is(err, unix.EINTR) {
			return os.NewFile(uintptr(fd), base), err
		}
	}
}

func join(dir, base string) string { return strings.TrimPrefix(dir+"/"+base, "./") }
