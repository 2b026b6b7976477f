package ptrace

import (
	"crypto/rand"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// unshare puts a copy in the place of a file that other root filesystems share, before its content, times or mode change. As with an overlay,
// whoever has the file open goes on with the old one.
func (c *call) unshare(at *place) error {
	if !at.owners().Shared(keyOf(at)) {
		return nil
	}
	c.worker.HandOver() // it may be a large file
	s := c.supervisor
	s.unsharing.Lock()
	defer s.unsharing.Unlock()
	if !at.owners().Shared(keyOf(at)) {
		return nil
	}
	if at.path == "" {
		return unix.EACCES // it has no name any more
	}
	dirPath, base := split(at.path)
	m, rest := s.mounts.at(dirPath)
	dir, err := (&resolver{supervisor: s}).open(m, rest, dirPath)
	if err != nil {
		return err
	}
	defer dir.close()
	m, rest = s.mounts.at(at.path)
	now, err := (&resolver{supervisor: s}).open(m, rest, at.path)
	if err != nil {
		return err
	}
	if keyOf(&now) != keyOf(at) {
		now.close()
		return unix.ESTALE
	}
	now.close()
	temp := ".cairn-" + rand.Text()
	fresh, err := s.copyBeside(at, dir.fd, temp)
	if err != nil {
		return err
	}
	if err := unix.Renameat(dir.fd, temp, dir.fd, base); err != nil {
		unix.Close(fresh)
		s.discard(dir.fd, temp)
		return err
	}
	// What a directory holds has not changed.
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, dir.file(), []unix.Timespec{dir.st.Atim, dir.st.Mtim}, 0); err != nil {
		unix.Close(fresh)
		return err
	}
	old := keyOf(at)
	unix.Close(at.fd)
	at.fd = fresh
	if err := unix.Fstat(at.fd, &at.st); err != nil {
		return err
	}
	at.owners().Copied(old, keyOf(at))
	return nil
}

// separate makes one name of a file that other root filesystems share, and that has several names, a file of its own: what happens to a name, or
// is said of it, is not to happen to the others.
func (c *call) separate(at *place) error {
	if at.owners().Names(keyOf(at)) < 2 {
		return nil
	}
	return c.unshare(at)
}

// copyBeside copies a file to a new name in a directory and returns the copy, O_PATH.
func (s *supervisor) copyBeside(at *place, dir int, name string) (int, error) {
	if at.st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, unix.EXDEV
	}
	in, err := os.Open(at.file())
	if err != nil {
		return -1, unix.EACCES
	}
	defer in.Close()
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, err
	}
	out := os.NewFile(uintptr(fd), name)
	defer out.Close()
	err = copyContent(out, in, &at.st)
	if err == nil {
		fd, err = unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		s.discard(dir, name)
		return -1, unix.ENOSPC
	}
	return fd, nil
}

// discard removes a copy that is of no use. One that stayed would be in the layer.
func (s *supervisor) discard(dir int, name string) {
	if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
		s.abort(fmt.Errorf("removing the unfinished copy %s: %w", name, err))
	}
}

// copyContent makes out, which is empty, like in: content with its holes, mode and times. st is of in.
func copyContent(out, in *os.File, st *unix.Stat_t) error {
	if err := fakeroot.CopyFile(out, in, st.Size); err != nil {
		return err
	}
	if err := unix.Fchmod(int(out.Fd()), st.Mode&0o777); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, selfFD(int(out.Fd())), times, 0); err != nil {
		return fmt.Errorf("setting the times of a copy: %w", err)
	}
	return nil
}
