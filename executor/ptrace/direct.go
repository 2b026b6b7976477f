package ptrace

import (
	"strings"

	"golang.org/x/sys/unix"
)

// direct looks an absolute path up in one step, which it can for root and what is below no mount but the first: nearly all of what programs ask
// for. ok is false where the long way has to be taken (walk).
func (r *resolver) direct(p string, follow bool) (at place, ok bool, err error) {
	if !r.task.privileged() {
		return place{}, false, nil
	}
	path, ok := r.mounts.below(p)
	if !ok {
		return place{}, false, nil
	}
	// The kernel goes up where the path does, and not above the root.
	at, err = r.openIn(r.mounts[0], p, path, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
	switch {
	case err == unix.ELOOP:
		return r.linked(p, follow)
	case err == nil && follow && at.isLink():
		at.close()
		return r.linked(p, follow)
	}
	return at, err == nil || err == unix.ENOENT || err == unix.ENOTDIR, err
}

// linked is direct for a path with links in it: they may lead below another mount, where the kernel does not look.
func (r *resolver) linked(p string, follow bool) (place, bool, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if !follow {
		how.Flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat2(r.mounts[0].fd, p, &how)
	if err != nil {
		return place{}, false, nil
	}
	host, err := hostPath(fd)
	at := place{fd: fd}
	if err == nil {
		at.mount, at.path = r.mounts.of(host)
	}
	if at.mount != r.mounts[0] || at.path == "" || strings.HasSuffix(host, " (deleted)") || unix.Fstat(fd, &at.st) != nil {
		at.close()
		return place{}, false, nil
	}
	r.links++
	return at, true, nil
}

// below returns an absolute path without "." and "..", if it comes by no mount but the first on its way and names no directory by its form.
func (t mountTable) below(p string) (string, bool) {
	if len(p) < 2 || strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..") {
		return "", false
	}
	if !strings.Contains(p, "//") && !strings.Contains(p, "/.") {
		if m, _ := t.at(p); m != t[0] {
			return "", false
		}
		return p, true
	}
	clean := make([]byte, 0, len(p))
	for name := range strings.SplitSeq(p, "/") {
		switch name {
		case "", ".":
		case "..":
			clean = clean[:max(strings.LastIndexByte(string(clean), '/'), 0)]
		default:
			clean = append(append(clean, '/'), name...)
			if m, _ := t.at(string(clean)); m != t[0] {
				return "", false
			}
		}
	}
	return string(clean), len(clean) > 0
}
