package ptrace

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// stub is a mount point that was made in the root filesystem, so that lists of its directory show it, and has to go again, unless the process
// has put something into it. It is remembered by a descriptor and an inode: names belong to the process while it runs.
type stub struct {
	parent int // O_PATH
	name   string
	dir    bool
	key    fakeroot.Key
}

// target resolves a mount point as a process with this root would, and makes what is missing of it: directories, and an
// empty file at the end unless dir. It returns the path without links.
func (r *run) target(name string, dir bool) (string, error) {
	s := &supervisor{mounts: r.job.Mounts, tasks: &taskTable{}}
	if err := s.mounts.open(); err != nil {
		return "", err
	}
	defer s.mounts.close()
	res := &resolver{supervisor: s, task: &task{group: &group{}}}
	todo, _ := components(name)
	cur := "/"
	for len(todo) > 0 {
		next := todo[0]
		at, err := res.walk(cur, []string{next}, false)
		if errors.Is(err, unix.ENOENT) {
			if err := r.makePoint(res, cur, next, dir || len(todo) > 1); err != nil {
				return "", &pathError{"making", path.Join(cur, next), err}
			}
			continue
		}
		if err != nil {
			return "", &pathError{"opening", path.Join(cur, next), err}
		}
		if at.isLink() {
			if at.mount.Kind == procMount {
				at.close()
				return "", &pathError{"opening", at.path, unix.ELOOP}
			}
			link, err := res.follow(&at)
			if err != nil {
				return "", &pathError{"opening", path.Join(cur, next), err}
			}
			if strings.HasPrefix(link, "/") {
				cur = "/"
			}
			names, _ := components(link)
			todo = append(names, todo[1:]...)
			continue
		}
		at.close()
		if len(todo) > 1 && !at.isDir() {
			return "", &pathError{"opening", at.path, unix.ENOTDIR}
		}
		cur, todo = at.path, todo[1:]
	}
	if cur == "/" {
		return "", errors.New("nothing can be mounted over the root")
	}
	return cur, nil
}

func (t mountTable) close() {
	for _, m := range t {
		unix.Close(m.fd)
	}
}

// makePoint makes one component of a mount point and remembers it. The directory it is in looks untouched afterwards.
func (r *run) makePoint(res *resolver, in, name string, dir bool) error {
	at, err := res.walk(in, nil, true)
	if err != nil {
		return err
	}
	if at.mount.Kind == procMount {
		at.close()
		return unix.ENOENT
	}
	mode := uint32(0o644)
	if dir {
		mode = 0o755
		err = unix.Mkdirat(at.fd, name, 0o700)
	} else {
		err = unix.Mknodat(at.fd, name, unix.S_IFREG|0o600, 0)
	}
	if err != nil {
		at.close()
		return err
	}
	var st unix.Stat_t
	// The umask must not decide what processes see.
	err = errors.Join(unix.Fchmodat(at.fd, name, mode, 0), unix.Fstatat(at.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW))
	at.owners().Drop(fakeroot.KeyOf(&st))
	r.stubs = append(r.stubs, stub{at.fd, name, dir, fakeroot.KeyOf(&st)})
	return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, at.file(), []unix.Timespec{at.st.Atim, at.st.Mtim}, 0))
}

// removeStubs removes mount points, last made first, if they are still what was made. It never follows a link.
func (r *run) removeStubs() error {
	var errs []error
	for i := len(r.stubs) - 1; i >= 0; i-- {
		if err := r.stubs[i].remove(); err != nil {
			errs = append(errs, fmt.Errorf("removing the mount point %s: %w", r.stubs[i].name, err))
		}
		unix.Close(r.stubs[i].parent)
	}
	r.stubs = nil
	return errors.Join(errs...)
}

func (s stub) remove() error {
	var st, parent unix.Stat_t
	if err := unix.Fstatat(s.parent, s.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil // removed by the process, or its directory was
	}
	if fakeroot.KeyOf(&st) != s.key || !s.dir && st.Size != 0 {
		return nil
	}
	if err := unix.Fstat(s.parent, &parent); err != nil {
		return err
	}
	flags := 0
	if s.dir {
		flags = unix.AT_REMOVEDIR
	}
	err := unix.Unlinkat(s.parent, s.name, flags)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, selfFD(s.parent), []unix.Timespec{parent.Atim, parent.Mtim}, 0)
}
