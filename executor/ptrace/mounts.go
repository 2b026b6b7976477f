package ptrace

import (
	"strings"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"golang.org/x/sys/unix"
)

// mountKind says who answers for what is below a mount.
type mountKind int

const (
	ordinaryMount mountKind = iota
	procMount               // the machine's /proc, of which only the own processes are shown
	tmpfsMount              // a directory that is gone after the run
)

// mount is a directory or file shown at a place of the root filesystem. Nothing is mounted: paths that lead there are resolved there.
type mount struct {
	// Target is where it is shown, absolute and without links: "/" for the root filesystem itself.
	Target string
	// Source is what is shown, absolute.
	Source   string
	ReadOnly bool
	Kind     mountKind
	// Table is the number of the table of owners, in job.Owners.
	Table int

	fd     int // O_PATH of Source
	owners *fakeroot.Table
}

// mountTable lists mounts. The first is the root filesystem; of several with one target the last holds.
type mountTable []*mount

// open opens all sources, and learns how the kernel calls them.
func (t mountTable) open() error {
	for _, m := range t {
		fd, err := unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return &pathError{"opening the source of a mount", m.Source, err}
		}
		m.fd = fd
		if m.Source, err = hostPath(fd); err != nil {
			return &pathError{"naming the source of a mount", m.Source, err}
		}
	}
	return nil
}

// at returns the mount that a path without links lies in, and the rest of the path, "." for the mount's root.
func (t mountTable) at(path string) (*mount, string) {
	best := t[0]
	for _, m := range t[1:] {
		if within(m.Target, path) && len(m.Target) >= len(best.Target) {
			best = m
		}
	}
	rest := strings.TrimPrefix(path[min(len(best.Target), len(path)):], "/")
	if rest == "" {
		rest = "."
	}
	return best, rest
}

// of is the mount that an open file belongs to by the name that the kernel has for it, and where it is in the root filesystem: "" if nowhere.
func (t mountTable) of(host string) (*mount, string) {
	if host != "" && host[0] == '/' {
		if guest, ok := t.guest(host); ok {
			m, _ := t.at(guest)
			return m, guest
		}
	}
	return t[0], ""
}

// is reports whether something is mounted at a path.
func (t mountTable) is(path string) bool {
	for _, m := range t {
		if m.Target == path {
			return true
		}
	}
	return false
}

// guest translates a path of the machine into one of the root filesystem; false if it is shown nowhere.
func (t mountTable) guest(host string) (string, bool) {
	var best *mount
	for _, m := range t {
		if within(m.Source, host) && (best == nil || len(m.Source) > len(best.Source)) {
			best = m
		}
	}
	if best == nil {
		return "", false
	}
	rest := strings.TrimPrefix(host[min(len(best.Source), len(host)):], "/")
	return join(best.Target, rest), true
}

// within reports whether path is dir or below it.
func within(dir, path string) bool {
	return dir == "/" || strings.HasPrefix(path, dir) && (len(path) == len(dir) || path[len(dir)] == '/')
}

func join(dir, name string) string {
	switch {
	case name == "":
		return dir
	case dir == "/":
		return "/" + name
	}
	return dir + "/" + name
}

// split takes a clean absolute path apart into directory and name.
func split(path string) (dir, base string) {
	i := strings.LastIndexByte(path, '/')
	if i <= 0 {
		return "/", path[i+1:]
	}
	return path[:i], path[i+1:]
}

type pathError struct {
	doing, path string
	err         error
}

func (e *pathError) Error() string { return e.doing + " " + e.path + ": " + e.err.Error() }
func (e *pathError) Unwrap() error { return e.err }
