package source

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// openBeneath opens a name below the directory root; no component may be a symlink, and none leaves it.
func openBeneath(root int, name string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := retry(func() (int, error) { return unix.Openat2(root, name, &how) })
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fd, err
	}
	// Before Linux 5.6, or where a seccomp filter does not know the call: one component at a time.
	parts := strings.Split(name, "/")
	dir := root
	for i, p := range parts {
		if p == ".." {
			return -1, unix.EXDEV
		}
		f := flags
		if i < len(parts)-1 {
			f = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		fd, err = retry(func() (int, error) { return unix.Openat(dir, p, f, 0) })
		if dir != root {
			_ = unix.Close(dir)
		}
		if err != nil {
			return -1, err
		}
		dir = fd
	}
	return fd, nil
}

// retry repeats a call that a signal interrupted, and a few times one that a rename elsewhere disturbed (openat2(2), EAGAIN).
func retry(f func() (int, error)) (int, error) {
	for again := 0; ; {
		n, err := f()
		if errors.Is(err, unix.EAGAIN) && again < 32 {
			again++
			continue
		}
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
