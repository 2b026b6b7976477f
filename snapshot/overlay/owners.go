package overlay

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/snapshot"
)

var _ snapshot.Owned = (*rwLayer)(nil)

// Owners implements snapshot.Owned. Modes and attributes are what the file system says; owners too, unless there is only one, in which case the
// table has all others. Devices are in it in either case, under sockets that
// stand for them.
//
// The keys are those of the mount: there a file keeps its number when it is copied up, but for one that has several names below.
func (rw *rwLayer) Owners() *fakeroot.Table { return rw.owners }

const dirPath = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openBelow opens a directory by a path without links.
func openBelow(root int, name string) (int, error) {
	return unix.Openat2(root, name, &unix.OpenHow{Flags: dirPath, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
}

// seedOwners notes what the layers below say and the mount cannot.
func (rw *rwLayer) seedOwners() error {
	one := rw.s.opts.OneOwner
	rw.owners = fakeroot.Over(fakeroot.Real{Owners: !one, Modes: true})
	if !rw.below.odd(one) {
		return nil
	}
	root, err := unix.Open(rw.Root(), dirPath, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: rw.Root(), Err: err}
	}
	defer unix.Close(root)
	return seeding{rw, rw.below.tree(), root}.directory(".")
}

// odd reports whether an entry may need a place in the table.
func odd(e *layer.Entry, oneOwner bool) bool {
	return e.Type == layer.Char || e.Type == layer.Block || oneOwner && (e.UID != 0 || e.GID != 0)
}

func (l *roLayer) odd(oneOwner bool) bool {
	return slices.ContainsFunc(l.indexes, func(ix *layer.Index) bool { return ix.HasDevices() || oneOwner && ix.HasOwners() })
}

type seeding struct {
	rw   *rwLayer
	tree layer.Tree
	root int
}

func (s seeding) directory(name string) error {
	fd := -1
	defer func() {
		if fd >= 0 {
			unix.Close(fd)
		}
	}()
	for e, err := range s.tree.ReadDir(name) {
		if err != nil {
			return err
		}
		if odd(&e, s.rw.s.opts.OneOwner) {
			if fd < 0 {
				if fd, err = openBelow(s.root, name); err != nil {
					return fmt.Errorf("noting owners in %q: %w", name, err)
				}
			}
			s.say(fd, &e)
		}
		if e.Type == layer.Dir {
			if err := s.directory(e.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// say notes one entry. Devices that could not be made are not there.
func (s seeding) say(dir int, e *layer.Entry) {
	var st unix.Stat_t
	if unix.Fstatat(dir, path.Base(e.Path), &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return
	}
	m := fakeroot.Meta{UID: uint32(e.UID), GID: uint32(e.GID)}
	switch e.Type {
	case layer.Char:
		m.Type = unix.S_IFCHR
	case layer.Block:
		m.Type = unix.S_IFBLK
	}
	if m.Type != 0 {
		if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
			return // a real one
		}
		m.Rdev = unix.Mkdev(e.Devmajor, e.Devminor)
	}
	s.rw.owners.Set(fakeroot.KeyOf(&st), m)
}

// upperOwners returns the part of the table that is about files of the upper directory, under their own keys. It needs the mount.
func (rw *rwLayer) upperOwners() (*fakeroot.Table, error) {
	out := fakeroot.Over(fakeroot.Real{Owners: !rw.s.opts.OneOwner, Modes: true})
	if rw.owners.Len() == 0 {
		return out, nil
	}
	mount, err := unix.Open(rw.Root(), dirPath, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: rw.Root(), Err: err}
	}
	defer unix.Close(mount)
	upper, err := unix.Open(rw.path("upper"), dirPath, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: rw.path("upper"), Err: err}
	}
	defer unix.Close(upper)
	return out, translation{from: rw.owners, to: out}.directory(mount, upper)
}

// translation carries entries over from the keys of a mount to those of its upper directory.
type translation struct{ from, to *fakeroot.Table }

// directory translates what is in a directory, open in both.
func (t translation) directory(mount, upper int) error {
	fd, err := unix.Openat(upper, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "upper")
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := t.entry(mount, upper, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (t translation) entry(mount, upper int, name string) error {
	var shown, own unix.Stat_t
	err := unix.Fstatat(mount, name, &shown, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil // removed
	}
	if err = errors.Join(err, unix.Fstatat(upper, name, &own, unix.AT_SYMLINK_NOFOLLOW)); err != nil {
		return err
	}
	if m, ok := t.from.Get(fakeroot.KeyOf(&shown)); ok {
		t.to.Set(fakeroot.KeyOf(&own), m)
	}
	if own.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	below, err := unix.Openat(mount, name, dirPath, 0)
	if err != nil {
		return err
	}
	defer unix.Close(below)
	ours, err := unix.Openat(upper, name, dirPath, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ours)
	return t.directory(below, ours)
}

// describer is what a layer's entries get from a table (layer.DiffDescribed).
func describer(t *fakeroot.Table) func(*unix.Stat_t, *layer.Entry) {
	if t.Len() == 0 {
		return nil
	}
	return func(st *unix.Stat_t, e *layer.Entry) {
		m := t.Of(st)
		e.UID, e.GID = int(m.UID), int(m.GID)
		switch m.Type {
		case unix.S_IFCHR:
			e.Type = layer.Char
		case unix.S_IFBLK:
			e.Type = layer.Block
		default:
			return
		}
		e.Size, e.Devmajor, e.Devminor = 0, unix.Major(m.Rdev), unix.Minor(m.Rdev)
	}
}
