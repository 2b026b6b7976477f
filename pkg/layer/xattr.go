package layer

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	xattrCapability = "security.capability"
	xattrACL        = "system.posix_acl_access"
	xattrDefaultACL = "system.posix_acl_default"
	xattrOpaque     = "user.overlay.opaque"
	// overlayPrefix is that of the names under which overlayfs, mounted with userxattr, keeps its own notes.
	overlayPrefix = "user.overlay."
	// escapedPrefix is how overlayfs itself stores an attribute that looks like one of its own (Linux 6.7, ovl_xattr_escape).
	escapedPrefix = "user.overlay.overlay."
)

// diskXattr is the name under which a layer's attribute is stored in a snapshot. What would be overlayfs' notes is stored as
// overlayfs stores it for its users, so it never is one.
func diskXattr(name string) string {
	if rest, ok := strings.CutPrefix(name, overlayPrefix); ok {
		return escapedPrefix + rest
	}
	return name
}

// setXattrs sets the attributes of a regular file or directory. ACLs are left out where the file system has none.
func setXattrs(fd int, xattrs map[string]string) error {
	for name, value := range xattrs {
		if !keptXattr(name) {
			continue
		}
		err := unix.Fsetxattr(fd, diskXattr(name), []byte(value), 0)
		if errors.Is(err, unix.EOPNOTSUPP) && (name == xattrACL || name == xattrDefaultACL) {
			continue
		}
		if err != nil {
			return &xattrError{name, err}
		}
	}
	return nil
}

type xattrError struct {
	name string
	err  error
}

func (e *xattrError) Error() string { return "setting attribute " + e.name + ": " + e.err.Error() }
func (e *xattrError) Unwrap() error { return e.err }

// readXattrs returns the attributes of an open file that belong in a layer: its capabilities and those of users. overlayfs'
// notes are returned apart.
func readXattrs(fd int) (own, overlay map[string]string, err error) {
	names, err := listXattrs(fd)
	if err != nil {
		return nil, nil, err
	}
	for name := range strings.SplitSeq(names, "\x00") {
		var to *map[string]string
		switch {
		case strings.HasPrefix(name, overlayPrefix):
			to = &overlay
		case name == xattrCapability, strings.HasPrefix(name, "user."):
			to = &own
		default:
			continue
		}
		value, err := getXattr(fd, name)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[name] = value
	}
	return own, overlay, nil
}

func listXattrs(fd int) (string, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Flistxattr(fd, buf)
		switch {
		case errors.Is(err, unix.ERANGE):
			// 64 KiB is the most that Linux returns (XATTR_LIST_MAX).
			buf = make([]byte, 64<<10)
		case errors.Is(err, unix.EOPNOTSUPP):
			return "", nil
		case err != nil:
			return "", err
		default:
			return string(buf[:n]), nil
		}
	}
}

func getXattr(fd int, name string) (string, error) {
	buf := make([]byte, 128)
	for {
		n, err := unix.Fgetxattr(fd, name, buf)
		if errors.Is(err, unix.ERANGE) && len(buf) < 64<<10 {
			buf = make([]byte, 64<<10)
			continue
		}
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	}
}

// keptXattrs returns those of xattrs that a layer's index keeps and a snapshot gets: what is the file's own, not the host's
// business. Labels of security modules (security.selinux) and what only the initial user namespace can set (trusted.*) are
// left out, as the result must not depend on who applies the layer.
func keptXattrs(xattrs map[string]string) map[string]string {
	var out map[string]string
	for k, v := range xattrs {
		if !keptXattr(k) {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(xattrs))
		}
		out[k] = v
	}
	return out
}

func keptXattr(name string) bool {
	switch name {
	case xattrCapability, xattrACL, xattrDefaultACL:
		return true
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.")
}
