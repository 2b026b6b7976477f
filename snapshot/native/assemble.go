package native

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/layer"
)

// assembly puts a root filesystem together. It works by descriptors of directories that it has made itself, with one name at a time.
type assembly struct {
	tree   layer.Tree
	dirs   []int // of the layers, bottom first
	link   bool
	owners *fakeroot.Table

	origins origins
	groups  map[string]string // the first name of files with several, by LinkID
	names   map[found]int     // see further
	root    int
}

// found is where a layer has a file. It goes through a reader, as that is what a tree returns.
type found struct {
	layer int
	name  string
}

func (found) Read([]byte) (int, error) { return 0, io.EOF }
func (found) Close() error             { return nil }

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// assemble fills root with what the layers show together, and notes in owners what root itself cannot say.
func assemble(l *roLayer, root string, owners *fakeroot.Table) (_ origins, err error) {
	a := &assembly{link: l.s.opts.Link, owners: owners, origins: newOrigins(), groups: map[string]string{}, names: further(l.indexes)}
	a.tree = layer.Stack(l.indexes, func(n int, name string) (io.ReadCloser, error) { return found{n, name}, nil })
	defer func() {
		for _, fd := range a.dirs {
			unix.Close(fd)
		}
	}()
	for _, dir := range l.dirs {
		fd, err := unix.Open(dir, dirFlags, 0)
		if err != nil {
			return a.origins, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		a.dirs = append(a.dirs, fd)
	}
	if a.root, err = unix.Open(root, dirFlags, 0); err != nil {
		return a.origins, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(a.root)
	e, err := a.tree.Lstat(".")
	if err != nil {
		return a.origins, err
	}
	return a.origins, a.directory(a.root, &e)
}

// directory fills the directory fd and gives it its mode and time.
func (a *assembly) directory(fd int, e *layer.Entry) error {
	for below, err := range a.tree.ReadDir(e.Path) {
		if err != nil {
			return err
		}
		if err := a.entry(fd, &below); err != nil {
			return fmt.Errorf("%q: %w", below.Path, err)
		}
	}
	if err := unix.Fchmod(fd, fakeroot.RealMode(uint32(e.Mode), true)); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	a.say(&st, e)
	return unix.UtimesNanoAt(unix.AT_FDCWD, selfFD(fd), times(e), 0)
}

func selfFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func times(e *layer.Entry) []unix.Timespec {
	ts := unix.Timespec{Sec: e.ModTime.Unix(), Nsec: int64(e.ModTime.Nanosecond())}
	return []unix.Timespec{ts, ts}
}

// say notes what an entry says and the file system does not.
func (a *assembly) say(st *unix.Stat_t, e *layer.Entry) {
	m := fakeroot.Meta{UID: uint32(e.UID), GID: uint32(e.GID), Mode: uint32(e.Mode), Xattrs: recorded(e.Xattrs)}
	switch e.Type {
	case layer.Char:
		m.Type = unix.S_IFCHR
	case layer.Block:
		m.Type = unix.S_IFBLK
	case layer.Symlink:
		m.Mode = 0o777
	}
	if m.Type != 0 {
		m.Rdev = unix.Mkdev(e.Devmajor, e.Devminor)
	}
	a.owners.Drop(fakeroot.KeyOf(st))
	if m.UID != 0 || m.GID != 0 || m.Mode != st.Mode&0o7777 || m.Type != 0 || len(m.Xattrs) > 0 {
		a.owners.Set(fakeroot.KeyOf(st), m)
	}
}

// recorded are the attributes that a layer made of the root filesystem will have again.
func recorded(xattrs map[string]string) map[string]string {
	var out map[string]string
	for name, value := range xattrs {
		if kept(name) {
			out = fakeroot.WithXattr(out, name, []byte(value))
		}
	}
	return out
}

// entry makes one name in the directory fd.
func (a *assembly) entry(fd int, e *layer.Entry) error {
	base := path.Base(e.Path)
	switch e.Type {
	case layer.Dir:
		if err := unix.Mkdirat(fd, base, 0o700); err != nil {
			return err
		}
		own, err := unix.Openat(fd, base, dirFlags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(own)
		return a.directory(own, e)
	case layer.File:
		return a.file(fd, base, e)
	}
	id, err := a.tree.LinkID(e.Path)
	if err != nil {
		return err
	}
	if done, err := a.another(fd, base, id, e.Path); done || err != nil {
		return err
	}
	switch e.Type {
	case layer.Symlink:
		err = unix.Symlinkat(e.Linkname, fd, base)
	case layer.Fifo:
		err = unix.Mknodat(fd, base, unix.S_IFIFO|fakeroot.RealMode(uint32(e.Mode), false), 0)
	default:
		err = unix.Mknodat(fd, base, unix.S_IFREG|fakeroot.RealMode(uint32(e.Mode), false), 0)
	}
	if err != nil {
		return err
	}
	return a.finish(fd, base, e, false)
}

// another makes a further name of a file that has one in the root filesystem already.
func (a *assembly) another(fd int, base, id, name string) (bool, error) {
	if id == "" {
		return false, nil
	}
	first, ok := a.groups[id]
	if !ok {
		a.groups[id] = name
		return false, nil
	}
	dir, err := unix.Openat2(a.root, path.Dir(first), &unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return true, err
	}
	defer unix.Close(dir)
	if err := unix.Linkat(dir, path.Base(first), fd, base, 0); err != nil {
		return true, err
	}
	a.origins.copy(name, first)
	return true, nil
}

// finish gives what is no directory its time, and notes what there is to say.
func (a *assembly) finish(fd int, base string, e *layer.Entry, linked bool) error {
	if !linked {
		if err := unix.UtimesNanoAt(fd, base, times(e), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	a.say(&st, e)
	if linked {
		a.owners.Share(fakeroot.KeyOf(&st), 1)
	}
	if e.Type == layer.File {
		a.origins.set(e.Path, &st, linked)
	}
	return nil
}

// finishLinked is finish for a hard link of a layer's file.
func (a *assembly) finishLinked(fd int, base string, e *layer.Entry, f found) error {
	if err := a.finish(fd, base, e, true); err != nil {
		return err
	}
	names := a.names[f]
	if names == 0 {
		return nil
	}
	// All that the layer has, as on an overlay, whether they are seen or not.
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	a.owners.Share(fakeroot.KeyOf(&st), names+1)
	return nil
}

// further counts the names that files of layers have beside their first.
func further(indexes []*layer.Index) map[found]int {
	names := map[found]int{}
	for i, ix := range indexes {
		for e := range ix.All() {
			if e.Type == layer.Hardlink {
				names[found{i, e.Linkname}]++
			}
		}
	}
	return names
}

func (a *assembly) file(fd int, base string, e *layer.Entry) error {
	id, err := a.tree.LinkID(e.Path)
	if err != nil {
		return err
	}
	if done, err := a.another(fd, base, id, e.Path); done || err != nil {
		return err
	}
	r, err := a.tree.Open(e.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	f, ok := r.(found)
	if !ok {
		// Its content is in the index.
		return a.write(fd, base, e, r)
	}
	in, err := unix.Openat2(a.dirs[f.layer], f.name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(in), f.name)
	defer src.Close()
	if a.link {
		err := unix.Linkat(unix.AT_FDCWD, selfFD(in), fd, base, unix.AT_SYMLINK_FOLLOW)
		if err == nil {
			return a.finishLinked(fd, base, e, f)
		}
		if !errors.Is(err, unix.EMLINK) && !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return a.write(fd, base, e, src)
}

// write makes a file of its own.
func (a *assembly) write(fd int, base string, e *layer.Entry, content io.Reader) error {
	own, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(own), base)
	if src, ok := content.(*os.File); ok {
		err = fakeroot.CopyFile(out, src, e.Size)
	} else {
		_, err = io.Copy(out, content)
	}
	if err = errors.Join(err, out.Chmod(os.FileMode(fakeroot.RealMode(uint32(e.Mode), false))), out.Close()); err != nil {
		return err
	}
	return a.finish(fd, base, e, false)
}
