package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSymlinks is the kernel's limit of links in one path.
const maxSymlinks = 40

// MountPoints resolves and makes the mount points of one process in its root filesystem.
type MountPoints struct {
	// Root is the root filesystem (O_PATH).
	Root *os.File
	made []stub
}

// stub is a mount point that was made in the root filesystem and has to go again, unless the process has put something
// into it. What it says about the past is held by descriptors and inode numbers: names belong to the process while it runs.
type stub struct {
	parent *os.File // O_PATH
	name   string
	dir    bool
	dev    uint64
	ino    uint64
}

// System prepares one of /proc, /dev and /sys. It must be a real directory: mounted through a link of the image,
// the mount would be somewhere else, and what is hidden and protected below it would be neither (CVE-2026-41579).
func (m *MountPoints) System(dir string) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(m.Root.Fd()), dir[1:], &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("mounting %s: it is not a directory in this image", dir)
	}
	if _, err := m.Target(dir, true, nil); err != nil {
		return fmt.Errorf("mounting %s: %w", dir, err)
	}
	return nil
}

// Target resolves a mount point in the root filesystem, as a process with this root would, and makes what is missing of
// it: directories, and an empty file at the end unless dir. It returns the path without links. Below one of the
// covered paths nothing is made, since it would be under the mount there; whoever mounts makes it in that mount.
func (m *MountPoints) Target(name string, dir bool, covered []string) (string, error) {
	w := walk{MountPoints: m, resolved: "/", todo: components(name), covered: covered}
	if err := w.open(); err != nil {
		return "", err
	}
	defer func() { w.cur.Close() }()
	for len(w.todo) > 0 {
		if w.isCovered(w.resolved) {
			rest := path.Join(append([]string{w.resolved}, w.todo...)...)
			if w.isCovered(rest) {
				return rest, nil
			}
			// It only passes through ("/dev/../x"): a mount's root has the same parent as what it covers.
			if err := w.restart(rest); err != nil {
				return "", err
			}
			continue
		}
		if err := w.step(dir); err != nil {
			return "", &os.PathError{Op: "open", Path: path.Join(w.resolved, strings.Join(w.todo, "/")), Err: err}
		}
	}
	if w.resolved == "/" {
		return "", errors.New("nothing can be mounted over the root")
	}
	return w.resolved, nil
}

func components(name string) []string {
	var c []string
	for p := range strings.SplitSeq(name, "/") {
		if p != "" && p != "." {
			c = append(c, p)
		}
	}
	return c
}

// walk is a path resolution inside the root filesystem.
type walk struct {
	*MountPoints
	cur      *os.File // O_PATH, what resolved names
	resolved string
	todo     []string
	links    int
	covered  []string
}

// open sets cur to what resolved names. No component of it is a link.
func (w *walk) open() error {
	fd, err := unix.Openat2(int(w.Root.Fd()), "."+w.resolved, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return err
	}
	if w.cur != nil {
		w.cur.Close()
	}
	w.cur = os.NewFile(uintptr(fd), w.resolved)
	return nil
}

func (w *walk) isCovered(p string) bool {
	for _, c := range w.covered {
		if p == c || strings.HasPrefix(p, c+"/") {
			return true
		}
	}
	return false
}

// step takes the first component of what is to do.
func (w *walk) step(dir bool) error {
	name := w.todo[0]
	if name == ".." {
		w.todo = w.todo[1:]
		w.resolved = path.Dir(w.resolved)
		return w.open()
	}
	fd, err := unix.Openat2(int(w.cur.Fd()), name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) {
		if err := w.make(name, dir || len(w.todo) > 1); err != nil {
			return err
		}
		return w.step(dir)
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	if st.Mode()&os.ModeSymlink != 0 {
		defer f.Close()
		return w.follow(f)
	}
	w.cur.Close()
	w.cur, w.resolved, w.todo = f, path.Join(w.resolved, name), w.todo[1:]
	return nil
}

// follow replaces the first component, a link, by where it points.
func (w *walk) follow(link *os.File) error {
	if w.links++; w.links > maxSymlinks {
		return unix.ELOOP
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", buf)
	if err != nil {
		return err
	}
	to := string(buf[:n])
	rest := append(components(to), w.todo[1:]...)
	if path.IsAbs(to) {
		return w.restart(strings.Join(rest, "/"))
	}
	w.todo = rest
	return nil
}

// restart begins again at the root with another path.
func (w *walk) restart(name string) error {
	w.todo, w.resolved = components(name), "/"
	return w.open()
}

// make makes one component of a mount point and remembers it. The directory it is in looks untouched afterwards.
func (w *walk) make(name string, dir bool) error {
	at := int(w.cur.Fd())
	times, err := timesOf(at)
	if err != nil {
		return err
	}
	st, err := w.create(at, name, dir)
	if err != nil {
		return err
	}
	parent, err := unix.FcntlInt(uintptr(at), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	w.made = append(w.made, stub{os.NewFile(uintptr(parent), w.resolved), name, dir, st.Dev, st.Ino})
	return setTimes(at, times)
}

// create makes a directory or an empty file. Of two files in one directory the second is a name of the first, which costs a file
// system much less.
func (w *walk) create(at int, name string, dir bool) (st unix.Stat_t, err error) {
	if dir {
		err = unix.Mkdirat(at, name, 0o755)
	} else if i := len(w.made) - 1; i >= 0 && !w.made[i].dir && w.made[i].parent.Name() == w.resolved {
		if unix.Linkat(int(w.made[i].parent.Fd()), w.made[i].name, at, name, 0) == nil {
			return st, unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	if err != nil {
		return st, err
	}
	flags, mode := unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(0o755)
	if !dir {
		flags, mode = flags|unix.O_CREAT|unix.O_EXCL, 0o644
	}
	fd, err := unix.Openat(at, name, flags, mode)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	// The umask must not decide whether the process's user can pass.
	return st, errors.Join(unix.Fchmod(fd, mode), unix.Fstat(fd, &st))
}

// Remove removes mount points, last made first, if they are still what was made. It never follows a link: what the
// process has put in their place, or moved them under, stays as it is.
func (m *MountPoints) Remove() error {
	var errs []error
	for i := len(m.made) - 1; i >= 0; i-- {
		errs = append(errs, m.made[i].remove())
		m.made[i].parent.Close()
	}
	m.made = nil
	return errors.Join(errs...)
}

func (s stub) remove() error {
	at := int(s.parent.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(at, s.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil // removed by the process, or its directory was
	}
	if st.Ino != s.ino || st.Dev != s.dev || (!s.dir && st.Size != 0) {
		return nil
	}
	times, err := timesOf(at)
	if err != nil {
		return fmt.Errorf("removing the mount point %s: %w", path.Join(s.parent.Name(), s.name), err)
	}
	flags := 0
	if s.dir {
		flags = unix.AT_REMOVEDIR
	}
	err = unix.Unlinkat(at, s.name, flags)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the mount point %s: %w", path.Join(s.parent.Name(), s.name), err)
	}
	return setTimes(at, times)
}

func timesOf(fd int) ([]unix.Timespec, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	return []unix.Timespec{st.Atim, st.Mtim}, nil
}

func setTimes(fd int, times []unix.Timespec) error {
	if err := unix.UtimesNanoAt(fd, ".", times, 0); err != nil {
		return fmt.Errorf("restoring the times of a directory: %w", err)
	}
	return nil
}
