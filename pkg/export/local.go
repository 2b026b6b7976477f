package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/cairn-build/cairn/pkg/layer"
	"golang.org/x/sys/unix"
)

// writeLocal writes the root filesystem into a directory. What is there already stays, unless the image has something of the
// same name: files are replaced by renaming, directories are merged, and a symlink in the place of a directory is replaced,
// never followed. Files belong to who runs the build, as with docker buildx; owners are kept by type=tar.
func (e *exporter) writeLocal(ctx context.Context) error {
	all, err := e.rootfses(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(e.Dest, 0o777); err != nil {
		return err
	}
	root, err := os.OpenRoot(e.Dest)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, r := range all {
		if err := e.writeTree(ctx, root, r); err != nil {
			return err
		}
	}
	return nil
}

func (e *exporter) writeTree(ctx context.Context, root *os.Root, r rootfs) error {
	if r.dir != "." {
		if err := makeDir(root, r.dir); err != nil {
			return err
		}
		sub, err := root.OpenRoot(r.dir)
		if err != nil {
			return err
		}
		defer sub.Close()
		root = sub
	}
	w := &treeWriter{e: e, tree: r.tree, top: root, links: linker{}, skipped: map[string]bool{}}
	if err := w.fill(ctx, root, "."); err != nil {
		return err
	}
	if len(w.skipped) > 0 {
		e.say("%d devices were left out, to make them needs root; type=tar keeps them", len(w.skipped))
	}
	if w.badXattrs > 0 {
		e.say("%d extended attributes could not be set: %v", w.badXattrs, w.xattrErr)
	}
	return nil
}

// treeWriter writes one tree below top.
type treeWriter struct {
	e     *exporter
	tree  layer.Tree
	top   *os.Root
	links linker
	// badXattrs counts the attributes that the file system or the rights here do not allow; xattrErr is the first of them.
	badXattrs int
	xattrErr  error
	// skipped are the devices that only root can make. In a user namespace nobody is root enough.
	skipped map[string]bool
}

// place is where one entry goes: base in an open directory.
type place struct {
	root *os.Root
	dir  *os.File
	base string
}

// fill writes what is below the directory name into root, which is that directory.
func (w *treeWriter) fill(ctx context.Context, root *os.Root, name string) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for en, err := range w.tree.ReadDir(name) {
		if err != nil {
			return fmt.Errorf("reading directory %s: %w", name, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.e.Epoch != nil {
			en.ModTime = *w.e.Epoch
		}
		if err := w.write(ctx, en, place{root, dir, path.Base(en.Path)}); err != nil {
			return fmt.Errorf("writing %s: %w", en.Path, err)
		}
	}
	return nil
}

func (w *treeWriter) write(ctx context.Context, en layer.Entry, p place) error {
	if en.Type == layer.Dir {
		return w.writeDir(ctx, en, p)
	}
	tmp := p
	tmp.base = tempName()
	err := w.create(en, tmp)
	if errors.Is(err, errSkipped) {
		w.skipped[en.Path] = true
		return nil
	}
	if err == nil {
		err = w.takePlace(tmp, p)
	}
	if err != nil {
		if rmErr := p.root.Remove(tmp.base); !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}

// takePlace renames tmp to p. A directory that is there goes.
func (w *treeWriter) takePlace(tmp, p place) error {
	fi, err := p.root.Lstat(p.base)
	if err == nil && fi.IsDir() {
		if err := p.root.RemoveAll(p.base); err != nil {
			return err
		}
	}
	if err := p.root.Rename(tmp.base, p.base); err != nil {
		return err
	}
	// rename(2) of one name of a file to another does nothing, and leaves both.
	if err := p.root.Remove(tmp.base); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

var errSkipped = errors.New("left out")

// create makes the file of an entry, which is no directory, under a temporary name.
func (w *treeWriter) create(en layer.Entry, p place) error {
	first, err := w.links.first(w.tree, en)
	if err != nil {
		return err
	}
	if w.skipped[first] {
		return errSkipped
	}
	if first != "" {
		return w.top.Link(first, path.Join(path.Dir(en.Path), p.base))
	}
	fd := int(p.dir.Fd())
	switch en.Type {
	case layer.File:
		if err := w.createFile(en, p); err != nil {
			return err
		}
	case layer.Symlink:
		if err := p.root.Symlink(en.Linkname, p.base); err != nil {
			return err
		}
		w.setXattrs(en, func(k string, v []byte) error {
			return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", fd, p.base), k, v, 0)
		})
	case layer.Fifo:
		if err := mknod(fd, p.base, unix.S_IFIFO|uint32(en.Mode), 0); err != nil {
			return err
		}
	case layer.Char, layer.Block:
		kind := uint32(unix.S_IFCHR)
		if en.Type == layer.Block {
			kind = unix.S_IFBLK
		}
		err := mknod(fd, p.base, kind|uint32(en.Mode), unix.Mkdev(en.Devmajor, en.Devminor))
		if errors.Is(err, unix.EPERM) {
			return errSkipped
		}
		if err != nil {
			return err
		}
	default:
		return fmt.Errorf("entry of type %q", en.Type)
	}
	return setTime(fd, p.base, en)
}

// mknod makes a node and gives it its mode whatever the umask is.
func mknod(dirfd int, base string, mode uint32, dev uint64) error {
	if err := unix.Mknodat(dirfd, base, mode, int(dev)); err != nil {
		return err
	}
	return layer.Chmod(dirfd, base, mode&0o7777)
}

func (w *treeWriter) createFile(en layer.Entry, p place) (err error) {
	f, err := p.root.OpenFile(p.base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if en.Size > 0 {
		src, err := w.tree.Open(en.Path)
		if err != nil {
			return err
		}
		defer src.Close()
		n, err := io.Copy(f, src)
		if err != nil {
			return err
		}
		if n != en.Size {
			return fmt.Errorf("%d bytes instead of %d", n, en.Size)
		}
	}
	w.setXattrs(en, func(k string, v []byte) error { return unix.Fsetxattr(int(f.Fd()), k, v, 0) })
	return unix.Fchmod(int(f.Fd()), uint32(en.Mode))
}

// writeDir makes a directory, fills it and then gives it its mode and time, which filling would change or forbid.
func (w *treeWriter) writeDir(ctx context.Context, en layer.Entry, p place) error {
	if err := makeDir(p.root, p.base); err != nil {
		return err
	}
	sub, err := p.root.OpenRoot(p.base)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := w.fill(ctx, sub, en.Path); err != nil {
		return err
	}
	d, err := sub.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	w.setXattrs(en, func(k string, v []byte) error { return unix.Fsetxattr(int(d.Fd()), k, v, 0) })
	if err := unix.Fchmod(int(d.Fd()), uint32(en.Mode)); err != nil {
		return err
	}
	return setTime(int(p.dir.Fd()), p.base, en)
}

// makeDir makes sure that name is a directory, no symlink to one, that its owner can write to.
func makeDir(root *os.Root, name string) error {
	fi, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case fi.IsDir():
		if fi.Mode().Perm()&0o700 != 0o700 {
			return root.Chmod(name, fi.Mode().Perm()|0o700)
		}
		return nil
	default:
		if err := root.Remove(name); err != nil {
			return err
		}
	}
	return root.Mkdir(name, 0o777)
}

func (w *treeWriter) setXattrs(en layer.Entry, set func(k string, v []byte) error) {
	for _, k := range slices.Sorted(maps.Keys(en.Xattrs)) {
		if err := set(k, []byte(en.Xattrs[k])); err != nil {
			if w.badXattrs++; w.xattrErr == nil {
				w.xattrErr = fmt.Errorf("%s of %s: %w", k, en.Path, err)
			}
		}
	}
}

// setTime sets the times of base, of the link itself if it is a symlink.
func setTime(dirfd int, base string, en layer.Entry) error {
	t, err := unix.TimeToTimespec(en.ModTime)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(dirfd, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}
