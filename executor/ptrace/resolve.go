package ptrace

import (
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// maxLinks is how many symbolic links the kernel follows in one path.
const maxLinks = 40

// place is a file that a path led to.
type place struct {
	// fd is the file itself, O_PATH. It is the caller's to close.
	fd int
	// path is where it is in the root filesystem, without links; "" for what is nowhere in it, such as a pipe.
	path  string
	mount *mount
	// host is another path of the machine for the same file, used instead of fd where a magic link of /proc is to be asked for itself.
	host string
	st   unix.Stat_t
}

func (p *place) close() {
	if p.fd >= 0 {
		unix.Close(p.fd)
	}
	p.fd = -1
}

// owners is the table that says whose the file is.
func (p *place) owners() *fakeroot.Table { return p.mount.owners }

// file is a name of the place's file by which it can be opened and changed.
func (p *place) file() string { return selfFD(p.fd) }

func selfFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func (p *place) isDir() bool  { return p.st.Mode&unix.S_IFMT == unix.S_IFDIR }
func (p *place) isLink() bool { return p.st.Mode&unix.S_IFMT == unix.S_IFLNK }

// hostPath is how the kernel calls an open file.
func hostPath(fd int) (string, error) { return readlink(selfFD(fd)) }

// readlink is unix.Readlink with a buffer on the stack.
func readlink(name string) (string, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return "", unix.EINVAL
	}
	return readlinkFrom(unix.AT_FDCWD, p)
}

// readlinkAt reads an open link.
func readlinkAt(fd int) (string, error) { return readlinkFrom(fd, new(byte)) }

func readlinkFrom(dir int, name *byte) (string, error) {
	var buf [unix.PathMax]byte
	n, _, e := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&buf)), uintptr(len(buf)), 0, 0)
	if e != 0 {
		return "", e
	}
	return string(buf[:n]), nil
}

// resolver looks paths up as one process sees them. No look-up leaves the root filesystem and its mounts: symbolic links are followed here,
// never by the kernel.
type resolver struct {
	*supervisor
	task  *task
	links int
}

// absolute returns the path in the root filesystem at which the look-up of a path begins. It may have links and ".." in it.
func (r *resolver) absolute(dirfd int32, p string) (string, error) {
	if p == "" {
		return "", unix.ENOENT
	}
	if p[0] == '/' {
		return p, nil
	}
	dir, err := r.directory(dirfd)
	if err != nil {
		return "", err
	}
	return join(dir, p), nil
}

// directory returns the path of a directory that the process holds open, or of its working directory.
func (r *resolver) directory(dirfd int32) (string, error) {
	host, err := readlink(r.task.fdLink(dirfd))
	if err != nil {
		return "", unix.EBADF
	}
	if guest, ok := r.mounts.guest(host); ok {
		if strings.HasSuffix(host, " (deleted)") {
			var st unix.Stat_t
			if unix.Stat(r.task.fdLink(dirfd), &st) == nil && st.Nlink == 0 {
				return "", unix.ENOENT
			}
		}
		return guest, nil
	}
	return "", unix.ENOENT
}

// components are the names in a path. A path that ends with a slash or a dot names a directory.
func components(p string) (names []string, dir bool) {
	for name := range strings.SplitSeq(p, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names, strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == "."
}

// find looks a path up. Without follow a link at its end is what is found.
func (r *resolver) find(dirfd int32, p string, follow bool) (place, error) {
	start, err := r.absolute(dirfd, p)
	if err != nil {
		return place{}, err
	}
	if at, ok, err := r.direct(start, follow); ok {
		return at, err
	}
	todo, dir := components(start)
	at, err := r.walk("/", todo, follow || dir)
	if err != nil {
		return place{}, err
	}
	if dir && !at.isDir() {
		at.close()
		return place{}, unix.ENOTDIR
	}
	return at, nil
}

// walk looks up names from the directory cur on, whose path has no links.
func (r *resolver) walk(cur string, todo []string, follow bool) (place, error) {
	for {
		for len(todo) > 0 && todo[0] == ".." {
			cur, _ = split(cur)
			todo = todo[1:]
		}
		up := slices.Index(todo, "..")
		run := todo
		if up >= 0 {
			run = todo[:up]
		}
		path := join(cur, strings.Join(run, "/"))
		m, rest := r.mounts.at(path)
		if m.Kind == procMount {
			at, next, err := r.proc(m, rest, follow || up >= 0)
			if err != nil {
				return place{}, err
			}
			if next != nil {
				cur, todo = "/", append(next, todo[len(run):]...)
				if r.links++; r.links > maxLinks {
					return place{}, unix.ELOOP
				}
				continue
			}
			if up < 0 {
				return at, nil
			}
			at.close()
			cur, todo = path, todo[up:]
			continue
		}
		at, err := r.open(m, rest, path)
		if err == unix.ELOOP {
			at, run, err = r.firstLink(cur, run)
			if err == nil && at.fd < 0 {
				continue // it is no link any more
			}
		}
		if err != nil {
			return place{}, err
		}
		if err := r.maySearch(cur, run); err != nil {
			at.close()
			return place{}, err
		}
		rest2 := todo[len(run):]
		switch {
		case at.isLink() && (follow || len(rest2) > 0):
			target, err := r.follow(&at)
			if err != nil {
				return place{}, err
			}
			names, _ := components(target)
			if strings.HasPrefix(target, "/") {
				cur = "/"
			} else {
				cur, _ = split(at.path)
			}
			todo = append(names, rest2...)
		case len(rest2) == 0:
			return at, nil
		case !at.isDir():
			at.close()
			return place{}, unix.ENOTDIR
		default:
			at.close()
			cur, todo = at.path, rest2
		}
	}
}

// open opens what is at a path below a mount if there is no link on the way.
func (r *resolver) open(m *mount, rest, path string) (place, error) {
	if rest != "." {
		return r.openIn(m, rest, path, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	}
	// The mount may be a file.
	fd, err := unix.FcntlInt(uintptr(m.fd), unix.F_DUPFD_CLOEXEC, 3)
	return newPlace(m, fd, path, err)
}

// openIn opens a name from the root of a mount on, which resolve does not let it leave. path is where that is.
func (r *resolver) openIn(m *mount, name, path string, resolve uint64) (place, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(m.fd, name, &how)
		if err != unix.EAGAIN && err != unix.EINTR || tries > 100 {
			return newPlace(m, fd, path, err)
		}
	}
}

func newPlace(m *mount, fd int, path string, err error) (place, error) {
	if err != nil {
		return place{}, err
	}
	at := place{fd: fd, path: path, mount: m}
	if err := unix.Fstat(at.fd, &at.st); err != nil {
		at.close()
		return place{}, err
	}
	return at, nil
}

// firstLink finds the first link among the names of a run and returns it with the run up to it. Its fd is -1 if there is none.
func (r *resolver) firstLink(cur string, run []string) (place, []string, error) {
	path := cur
	for i, name := range run {
		path = join(path, name)
		m, rest := r.mounts.at(path)
		at, err := r.open(m, rest, path)
		if err != nil {
			return place{}, nil, err
		}
		if at.isLink() {
			return at, run[:i+1], nil
		}
		at.close()
	}
	return place{fd: -1}, run, nil
}

// follow reads a link and closes it.
func (r *resolver) follow(at *place) (string, error) {
	defer at.close()
	if r.links++; r.links > maxLinks {
		return "", unix.ELOOP
	}
	target, err := readlinkAt(at.fd)
	if err == nil && target == "" {
		err = unix.ENOENT
	}
	return target, err
}

// maySearch checks, for a process that is not root, the directories that a run of names leads through.
func (r *resolver) maySearch(cur string, run []string) error {
	if r.task.privileged() {
		return nil
	}
	path := cur
	for _, name := range run {
		m, rest := r.mounts.at(path)
		if m.Kind == procMount {
			return nil
		}
		at, err := r.open(m, rest, path)
		if err != nil {
			return err
		}
		at.close()
		if err := r.access(&at, unix.X_OK); err != nil {
			return err
		}
		path = join(path, name)
	}
	return nil
}

// access checks what a process may do with a file by what is said of the file's owner and mode.
func (r *resolver) access(at *place, want uint32) error {
	if at.mount.Kind == procMount || at.path == "" {
		return nil
	}
	said := at.owners().Of(&at.st)
	isDir := at.isDir()
	if r.task.privileged() {
		if want&unix.X_OK != 0 && !isDir && said.Mode&0o111 == 0 {
			return unix.EACCES
		}
		return nil
	}
	return r.task.creds().Allows(said.UID, said.GID, said.Mode, want)
}

// parent looks up the directory that a path's last name is in.
func (r *resolver) parent(dirfd int32, p string) (dir place, base string, err error) {
	start, err := r.absolute(dirfd, p)
	if err != nil {
		return place{}, "", err
	}
	trimmed := strings.TrimRight(start, "/")
	i := strings.LastIndexByte(trimmed, '/')
	base = trimmed[i+1:]
	up, ok := trimmed[:max(i, 0)], false
	if dir, ok, err = r.direct(up, true); !ok {
		names, _ := components(up)
		dir, err = r.walk("/", names, true)
	}
	if err != nil {
		return place{}, "", err
	}
	if !dir.isDir() {
		dir.close()
		return place{}, "", unix.ENOTDIR
	}
	if err := r.access(&dir, unix.X_OK); err != nil {
		dir.close()
		return place{}, "", err
	}
	return dir, base, nil
}

// special reports whether a last name is none that could be made or removed.
func special(base string) bool { return base == "" || base == "." || base == ".." }
