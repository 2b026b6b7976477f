package copy

import (
	"fmt"
	"io/fs"
	"strconv"

	"github.com/cairn-build/cairn/pkg/layer"
	chmod "github.com/tonistiigi/dchapes-mode"
)

// mode is what --chmod says; the zero mode keeps the modes of the source.
type mode struct {
	octal *int64
	set   *chmod.Set
}

// parseMode reads --chmod: an octal number up to 07777, or the symbolic form of chmod(1).
func parseMode(s string) (mode, error) {
	if s == "" {
		return mode{}, nil
	}
	if n, err := strconv.ParseUint(s, 8, 32); err == nil {
		if n > 0o7777 {
			return mode{}, fmt.Errorf("reading --chmod=%s: an octal mode is between 0 and 07777", s)
		}
		m := int64(n)
		return mode{octal: &m}, nil
	}
	set, err := chmod.ParseWithUmask(s, 0)
	if err != nil {
		return mode{}, fmt.Errorf("reading --chmod=%s: neither an octal mode nor a symbolic one: %w", s, err)
	}
	return mode{set: &set}, nil
}

// parents is the mode of directories that are made on the way to the destination.
func (m mode) parents() int64 {
	if m.octal != nil {
		return *m.octal & 0o777
	}
	return 0o755
}

// apply changes the mode of anything but a symlink, which has none.
func (m mode) apply(e *layer.Entry) {
	switch {
	case e.Type == layer.Symlink:
	case m.set != nil:
		e.Mode = fromFileMode(m.set.Apply(toFileMode(*e)))
	case m.octal != nil:
		e.Mode = *m.octal
	}
}

// special pairs the bits above the permissions with what package fs calls them.
func special() [3]struct {
	bit  int64
	mode fs.FileMode
} {
	return [...]struct {
		bit  int64
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}}
}

func toFileMode(e layer.Entry) fs.FileMode {
	m := fs.FileMode(e.Mode & 0o777)
	for _, s := range special() {
		if e.Mode&s.bit != 0 {
			m |= s.mode
		}
	}
	if e.Type == layer.Dir {
		m |= fs.ModeDir
	}
	return m
}

func fromFileMode(m fs.FileMode) int64 {
	n := int64(m.Perm())
	for _, s := range special() {
		if m&s.mode != 0 {
			n |= s.bit
		}
	}
	return n
}
