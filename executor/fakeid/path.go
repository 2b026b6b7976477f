package fakeid

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// maxLinks is how many symbolic links the kernel follows in one path.
const maxLinks = 40

// errDenied means that the task may not search a directory on the way. Any other error of a look-up leaves the call to the kernel, which
// finds the same, or knows what cannot be seen from here: /proc is another one for each process.
var errDenied = errors.New("permission denied on the way")

var errProc = errors.New("a file of /proc")

// place is a file that a path led to.
type place struct {
	// fd is the file itself, O_PATH. It is the caller's to close.
	fd int
	st unix.Stat_t
	// said has what is said of it.
	said *fakeroot.Table
}

func (p *place) close() { unix.Close(p.fd) }

func (p *place) kind() uint32 { return p.st.Mode & unix.S_IFMT }

func (s *Supervisor) newPlace(fd int, err error) (place, error) {
	if err != nil {
		return place{}, err
	}
	p := place{fd: fd, said: s.tableOf(fd)}
	if err := unix.Fstat(fd, &p.st); err != nil {
		unix.Close(fd)
		return place{}, err
	}
	return p, nil
}

// tableOf returns what has to be said of the files of a mount, by a descriptor in it.
func (s *Supervisor) tableOf(fd int) *fakeroot.Table {
	if len(s.mounted) == 0 {
		return s.owners
	}
	var sx unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &sx) == nil {
		if t := s.mounted[sx.Mnt_id]; t != nil {
			return t
		}
	}
	return s.owners
}

// open returns what a task has open.
func (c *call) open(fd int32) (place, error) {
	if fd < 0 && fd != unix.AT_FDCWD {
		return place{}, unix.EBADF
	}
	return c.newPlace(unix.Open(c.fdName(fd), unix.O_PATH|unix.O_CLOEXEC, 0))
}

// at looks up the file that a call names by the descriptor in one argument and the path in the next. flags may have AT_EMPTY_PATH.
func (c *call) at(arg int, follow bool, flags uint64) (place, error) {
	if c.args[arg+1] == 0 {
		return c.open(c.int(arg)) // no path is the empty path (Linux 6.11), or the descriptor of utimensat
	}
	p, err := c.memory().Path(c.args[arg+1])
	if err != nil {
		return place{}, err
	}
	if p == "" && flags&unix.AT_EMPTY_PATH != 0 {
		return c.open(c.int(arg))
	}
	return c.find(c.int(arg), p, follow)
}

// find looks a path up.
func (c *call) find(dirfd int32, p string, follow bool) (place, error) {
	at, err := c.lookUp(dirfd, p, follow)
	if err == nil && uint64(at.st.Dev) == c.procDev {
		at.close()
		return place{}, errProc
	}
	return at, err
}

func (c *call) lookUp(dirfd int32, p string, follow bool) (place, error) {
	if p == "" {
		return place{}, unix.ENOENT
	}
	if name, ok := ownDescriptor(p); ok && follow {
		return c.newPlace(unix.Open(c.proc(name), unix.O_PATH|unix.O_CLOEXEC, 0))
	}
	if c.root() && !c.chroots {
		at, err := c.quick(dirfd, p, follow)
		if err != unix.EXDEV && err != unix.ELOOP {
			return at, err
		}
	}
	w, err := c.walk(dirfd, p, follow)
	if err != nil {
		return place{}, err
	}
	w.dir.close()
	if w.missing {
		return place{}, unix.ENOENT
	}
	return w.at, nil
}

// ownDescriptor recognises the names of a task's own open files, which only the task itself could look up.
func ownDescriptor(p string) (string, bool) {
	switch p {
	case "/dev/stdin":
		return "fd/0", true
	case "/dev/stdout":
		return "fd/1", true
	case "/dev/stderr":
		return "fd/2", true
	}
	for _, prefix := range []string{"/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/"} {
		if n, ok := strings.CutPrefix(p, prefix); ok && n != "" && strings.Trim(n, "0123456789") == "" {
			return "fd/" + n, true
		}
	}
	return "", false
}

// quick has the kernel look a path up in one step. EXDEV and ELOOP are paths for which that cannot be done.
func (c *call) quick(dirfd int32, p string, follow bool) (place, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if !follow {
		how.Flags |= unix.O_NOFOLLOW
	}
	base := int(c.Supervisor.root.Fd())
	if p[0] != '/' {
		how.Resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
		var err error
		if base, err = unix.Open(c.fdName(dirfd), unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			return place{}, err
		}
		defer unix.Close(base)
	}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(base, p, &how)
		if err != unix.EAGAIN || tries > 100 {
			return c.newPlace(fd, err)
		}
	}
}

// walked is where a path led: a name in a directory, and what has the name.
type walked struct {
	dir     place
	base    string
	at      place
	missing bool
}

func (w *walked) close() {
	w.dir.close()
	if !w.missing {
		w.at.close()
	}
}

// walk looks a path up name by name, as the task with the rights it is said to have. A name that is not there is no error if it is the last.
func (c *call) walk(dirfd int32, p string, follow bool) (walked, error) {
	root, err := c.rootOf()
	if err != nil {
		return walked{}, err
	}
	defer root.close()
	cur, err := c.newPlace(unix.FcntlInt(uintptr(root.fd), unix.F_DUPFD_CLOEXEC, 3))
	if err == nil && p[0] != '/' {
		cur.close()
		cur, err = c.open(dirfd)
	}
	if err != nil {
		return walked{}, err
	}
	w := walk{call: c, root: root, cur: cur}
	out, err := w.names(p, follow)
	if err != nil {
		w.cur.close()
	}
	return out, err
}

// rootOf is the task's root directory.
func (c *call) rootOf() (place, error) {
	if c.chroots {
		return c.newPlace(unix.Open(c.proc("root"), unix.O_PATH|unix.O_CLOEXEC, 0))
	}
	return c.newPlace(unix.FcntlInt(c.Supervisor.root.Fd(), unix.F_DUPFD_CLOEXEC, 3))
}

type walk struct {
	*call
	root, cur place
	links     int
}

func components(p string) []string {
	var names []string
	for name := range strings.SplitSeq(p, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}

// names goes through a path. On success cur is in what it returns.
func (w *walk) names(p string, follow bool) (walked, error) {
	todo := components(p)
	follow = follow || strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")
	for {
		if err := w.search(); err != nil {
			return walked{}, err
		}
		if len(todo) == 0 {
			// The directory itself has no name here.
			at, err := w.newPlace(unix.FcntlInt(uintptr(w.cur.fd), unix.F_DUPFD_CLOEXEC, 3))
			return walked{dir: w.cur, base: ".", at: at}, err
		}
		name, last := todo[0], len(todo) == 1
		at, err := w.step(name)
		if err == unix.ENOENT && last {
			return walked{dir: w.cur, base: name, missing: true}, nil
		}
		if err != nil {
			return walked{}, err
		}
		todo = todo[1:]
		switch {
		case at.kind() == unix.S_IFLNK && (!last || follow):
			target, err := readlinkAt(at.fd)
			at.close()
			if w.links++; w.links > maxLinks || err != nil || target == "" {
				return walked{}, errors.Join(err, unix.ELOOP)
			}
			if err := w.jump(target); err != nil {
				return walked{}, err
			}
			todo = append(components(target), todo...)
		case last:
			return walked{dir: w.cur, base: name, at: at}, nil
		default:
			w.cur.close()
			w.cur = at
		}
	}
}

// search checks that the task may look names up in the current directory.
func (w *walk) search() error {
	switch {
	case uint64(w.cur.st.Dev) == w.procDev:
		return errProc
	case w.cur.kind() != unix.S_IFDIR:
		return unix.ENOTDIR
	case w.access(&w.cur, unix.X_OK) != nil:
		return errDenied
	}
	return nil
}

func (w *walk) step(name string) (place, error) {
	if name == ".." && w.cur.st.Ino == w.root.st.Ino && w.cur.st.Dev == w.root.st.Dev {
		name = "."
	}
	return w.newPlace(unix.Openat(w.cur.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0))
}

// jump begins again at the root where a link is absolute.
func (w *walk) jump(target string) error {
	if target[0] != '/' {
		return nil
	}
	root, err := w.newPlace(unix.FcntlInt(uintptr(w.root.fd), unix.F_DUPFD_CLOEXEC, 3))
	if err != nil {
		return err
	}
	w.cur.close()
	w.cur = root
	return nil
}

func readlinkAt(fd int) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", buf[:])
	if err != nil {
		return "", &os.PathError{Op: "readlinkat", Err: err}
	}
	return string(buf[:n]), nil
}

// access checks what the task may do with a file by what is said of its owner.
func (c *call) access(at *place, want uint32) error {
	if c.root() || uint64(at.st.Dev) == c.procDev {
		return nil
	}
	said := at.said.Of(&at.st)
	return c.person.Allows(said.UID, said.GID, said.Mode, want)
}

// owns reports whether the task may change the metadata of a file.
func (c *call) owns(at *place) bool {
	return c.root() || at.said.Of(&at.st).UID == c.person.UID.FS
}
