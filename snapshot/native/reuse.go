package native

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/layer"
)

// A root filesystem that was committed is, as it stands, the one that the next step starts from. It is handed on, so that a step costs what it
// changes and not what its base has.

// reusable reports whether a committed root filesystem may be used again: its files are those of the new snapshot then, and only an executor
// that puts copies in their place leaves that alone.
func (rw *rwLayer) reusable() bool { return rw.s.opts.Link && rw.s.opts.Clamp == nil }

// leave hands the root filesystem on to ro, whose top layer, unpacked in dir, was made of it.
func (rw *rwLayer) leave(ro *roLayer, ix *layer.Index, dir string) error {
	if !rw.reusable() {
		return nil
	}
	names := further([]*layer.Index{ix})
	for e := range ix.All() {
		if e.Type != layer.File && e.Type != layer.Hardlink {
			rw.origins.forget(e.Path)
			continue
		}
		var here, kept unix.Stat_t
		if err := unix.Lstat(filepath.Join(rw.Root(), e.Path), &here); err != nil {
			return fmt.Errorf("looking at %q: %w", e.Path, err)
		}
		first := e.Path
		if e.Type == layer.Hardlink {
			first = e.Linkname
		}
		shared := unix.Lstat(filepath.Join(dir, first), &kept) == nil && fakeroot.KeyOf(&here) == fakeroot.KeyOf(&kept)
		if shared {
			rw.owners.Share(fakeroot.KeyOf(&here), 1+names[found{0, first}])
		}
		rw.origins.set(e.Path, &here, shared)
	}
	if err := ix.Err(); err != nil {
		return err
	}
	ro.warm = &rwLayer{s: rw.s, below: ro, dir: rw.dir, owners: rw.owners, origins: rw.origins}
	rw.released = true
	return nil
}

// takeWarm returns the root filesystem that a commit has left, once.
func (l *roLayer) takeWarm() *rwLayer {
	l.mu.Lock()
	defer l.mu.Unlock()
	rw := l.warm
	if l.released {
		rw = nil
	}
	if rw != nil {
		l.warm = nil
	}
	return rw
}

// dropWarm removes what nobody has taken.
func (l *roLayer) dropWarm() error {
	l.mu.Lock()
	rw := l.warm
	l.warm = nil
	l.mu.Unlock()
	if rw == nil {
		return nil
	}
	return rw.Release()
}
