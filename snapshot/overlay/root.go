package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Overlayfs keeps notes of its own under the first prefix; what its users stored there, under the second.
const (
	overlayXattrs = "user.overlay."
	opaqueXattr   = "user.overlay.opaque"
	escapedXattrs = "user.overlay.overlay."
)

// inherited reports whether a copy takes over an extended attribute: the root of an upper directory of the root below, a file in a fold of the one
// in its layer. Labels are the system's to give, and not every process may set the rest.
func inherited(name string) bool {
	if strings.HasPrefix(name, overlayXattrs) {
		return strings.HasPrefix(name, escapedXattrs)
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_") || name == "security.capability"
}

// copyRoot gives a directory the owner, mode, extended attributes and times of from: in a mount the root looks as the topmost does.
func copyRoot(from, to string) error {
	var fds descriptors
	defer func() { fds.close() }()
	for _, name := range []string{from, to} {
		fd, err := openAt(unix.AT_FDCWD, name)
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		fds = append(fds, fd)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fds[0], &st); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	return pathError("describing", to, describe(fds[1], fds[0], &st))
}

// describe gives an open file or directory the owner, mode, attributes and times of another, in the order in which none undoes one before.
func describe(to, from int, st *unix.Stat_t) error {
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	names, err := listXattrs(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !inherited(name) {
			continue
		}
		value, err := readGrowing(64<<10, func(buf []byte) (int, error) { return unix.Fgetxattr(from, name, buf) }) // XATTR_SIZE_MAX
		if err == nil {
			err = unix.Fsetxattr(to, name, value, 0)
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	// The mode after the owner, a change of which clears bits, and after an ACL, which is a mode too.
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
}

// listXattrs returns the names of an open file's extended attributes; none where the file system has no such thing.
func listXattrs(fd int) ([]string, error) {
	names, err := readGrowing(64<<10, func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) }) // XATTR_LIST_MAX
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	return strings.FieldsFunc(string(names), func(r rune) bool { return r == 0 }), err
}

// readGrowing calls read with a buffer that is large enough, and has most bytes at the most.
func readGrowing(most int, read func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := read(buf)
		if errors.Is(err, unix.ERANGE) && len(buf) < most {
			buf = make([]byte, most)
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

func pathError(doing, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: doing, Path: name, Err: err}
}
