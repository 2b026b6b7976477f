package layer

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// dirs opens directories below a root one component at a time, following no symlink. It keeps those on the way to the last
// one open, as names mostly come in the order of a walk. It is not safe for concurrent use.
type dirs struct {
	root int
	// stack is the open directories from below the root down to the one used last.
	stack []openedDir
}

type openedDir struct {
	path string
	fd   int
}

const openDirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func openDirs(root string) (dirs, error) {
	fd, err := retry(func() (int, error) { return unix.Open(root, openDirFlags, 0) })
	if err != nil {
		return dirs{}, &os.PathError{Op: "open", Path: root, Err: err}
	}
	return dirs{root: fd}, nil
}

func (d *dirs) close() {
	d.truncate(0)
	unix.Close(d.root)
}

func (d *dirs) truncate(n int) {
	for len(d.stack) > n {
		unix.Close(d.stack[len(d.stack)-1].fd)
		d.stack = d.stack[:len(d.stack)-1]
	}
}

// retry calls f until no signal interrupts it.
func retry[T any](f func() (T, error)) (T, error) {
	for {
		v, err := f()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

// dir returns an open directory, good until the next call of dir.
func (d *dirs) dir(name string) (int, error) {
	n := len(d.stack)
	for n > 0 && d.stack[n-1].path != name && !below(d.stack[n-1].path, name) {
		n--
	}
	d.truncate(n)
	fd, cur := d.root, "."
	if n > 0 {
		fd, cur = d.stack[n-1].fd, d.stack[n-1].path
	}
	for cur != name {
		rest := name
		if cur != "." {
			rest = name[len(cur)+1:]
		}
		c, _, _ := strings.Cut(rest, "/")
		next := join(cur, c)
		nfd, err := retry(func() (int, error) { return unix.Openat(fd, c, openDirFlags, 0) })
		if err != nil {
			return -1, &os.PathError{Op: "open directory", Path: next, Err: err}
		}
		d.stack = append(d.stack, openedDir{next, nfd})
		fd, cur = nfd, next
	}
	return fd, nil
}

// list returns the names in a directory, sorted.
func (d *dirs) list(name string) ([]string, error) {
	fd, err := d.dir(name)
	if err != nil {
		return nil, err
	}
	// A descriptor of its own: reading a directory moves its position.
	own, err := retry(func() (int, error) { return unix.Openat(fd, ".", openDirFlags, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open directory", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(own), name)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// openFile opens a regular file. A fifo in its place neither blocks nor opens.
func (d *dirs) openFile(dir, base string) (*os.File, error) {
	fd, err := d.dir(dir)
	if err != nil {
		return nil, err
	}
	name := join(dir, base)
	file, err := retry(func() (int, error) {
		return unix.Openat(fd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(file)
		return nil, &os.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	return os.NewFile(uintptr(file), name), nil
}

// readlink returns the target of a symlink.
func readlink(dir int, base string) (string, error) {
	buf := make([]byte, maxPath)
	n, err := retry(func() (int, error) { return unix.Readlinkat(dir, base, buf) })
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
