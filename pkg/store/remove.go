package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// removeTree removes path and everything below it. It works by descriptors, so that no symlink is followed, whatever happens to the tree
// meanwhile; it does not enter mounts. A directory that is closed to its owner, as overlay work directories are (mode 0000), is opened
// first. The depth of the tree does not matter.
func removeTree(path string) error {
	top, err := os.OpenFile(filepath.Dir(path), unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer top.Close()
	r := remover{top: int(top.Fd()), prefix: filepath.Base(path)}
	if err := r.remove(r.top, r.prefix, 0); err != nil {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	for i := 0; i < r.hoisted; i++ {
		if err := r.remove(r.top, r.hoistedName(i), 0); err != nil {
			return fmt.Errorf("removing %s: %w", path, err)
		}
	}
	return nil
}

// removeDepth is how deep remover goes down before it moves a directory up. Each level holds a descriptor.
const removeDepth = 100

type remover struct {
	top    int
	prefix string
	// hoisted counts the directories that were too deep and have been moved beside the tree.
	hoisted int
}

func (r *remover) hoistedName(i int) string { return r.prefix + ".deep" + strconv.Itoa(i) }

// remove removes one name of the directory parent.
func (r *remover) remove(parent int, name string, depth int) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return &fs.PathError{Op: "unlinkat", Path: name, Err: err}
	}
	if depth > removeDepth {
		return r.hoist(parent, name)
	}
	if err := r.empty(parent, name, depth); err != nil {
		return err
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: name, Err: err}
	}
	return nil
}

// hoist moves a directory up beside the tree, to be removed later. A name that an earlier, interrupted removal has left is taken too.
func (r *remover) hoist(parent int, name string) error {
	for {
		err := unix.Renameat(parent, name, r.top, r.hoistedName(r.hoisted))
		r.hoisted++
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return &fs.PathError{Op: "renameat", Path: name, Err: err}
		}
	}
}

// empty removes what is in the directory name of parent.
func (r *remover) empty(parent int, name string, depth int) error {
	fd, err := openDirAt(parent, name)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	// Removing while reading makes some file systems skip entries: read again from the start until there is nothing left.
	for {
		names, err := dir.Readdirnames(4096)
		for _, child := range names {
			if err := r.remove(fd, child, depth+1); err != nil {
				return err
			}
		}
		if len(names) == 0 {
			if err != nil && err != io.EOF {
				return err
			}
			return nil
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// openDirAt opens a directory for reading, giving its owner the rights to change it where they are missing. What is mounted there is
// refused with EXDEV.
func openDirAt(parent int, name string) (int, error) {
	// O_PATH needs no right on the directory itself.
	path, err := openat2(parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return -1, err
	}
	defer unix.Close(path)
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return -1, err
	}
	if st.Mode&0o700 != 0o700 {
		// fchmod refuses O_PATH descriptors; the link in /proc is the same inode.
		if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(path), 0o700); err != nil {
			return -1, err
		}
	}
	return unix.Openat(path, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// openat2 opens one component beneath a directory without crossing a mount; before Linux 5.6 mounts are told by their device only.
func openat2(parent int, name string, flags uint64) (int, error) {
	for {
		fd, err := unix.Openat2(parent, name, &unix.OpenHow{
			Flags:   flags | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			return openSameDevice(parent, name, int(flags))
		}
		return fd, err
	}
}

func openSameDevice(parent int, name string, flags int) (int, error) {
	fd, err := unix.Openat(parent, name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var above, here unix.Stat_t
	if err := errors.Join(unix.Fstat(parent, &above), unix.Fstat(fd, &here)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if above.Dev != here.Dev {
		unix.Close(fd)
		return -1, unix.EXDEV
	}
	return fd, nil
}
