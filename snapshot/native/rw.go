package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/snapshot"
)

// rwLayer implements snapshot.RWLayer. Its directory in the store's tmp holds root and, while it is committed, contents.
type rwLayer struct {
	s *Snapshotter
	// below is the layer under it. Only its values are used: it may be released meanwhile.
	below   *roLayer
	dir     string
	owners  *fakeroot.Table
	origins origins
	// forbidden must not be in the layer.
	forbidden [][]byte

	mu       sync.Mutex
	used     bool // committed, or tried
	released bool
}

var (
	_ snapshot.Owned   = (*rwLayer)(nil)
	_ snapshot.Guarded = (*rwLayer)(nil)
)

func newRWLayer(below *roLayer) (_ *rwLayer, err error) {
	dir, err := below.s.opts.Store.TempDir("rw-")
	if err != nil {
		return nil, err
	}
	rw := &rwLayer{s: below.s, below: below, dir: dir, owners: fakeroot.New()}
	defer func() {
		if err != nil {
			err = errors.Join(err, rw.Release())
		}
	}()
	if err := os.Mkdir(rw.Root(), 0o755); err != nil {
		return nil, err
	}
	rw.origins, err = assemble(below, rw.Root(), rw.owners)
	return rw, err
}

func (rw *rwLayer) Root() string { return filepath.Join(rw.dir, "root") }

// Owners implements snapshot.Owned.
func (rw *rwLayer) Owners() *fakeroot.Table { return rw.owners }

// kept reports whether an attribute goes into a layer, as layer.Diff has it.
func kept(name string) bool { return name == "security.capability" || strings.HasPrefix(name, "user.") }

// Describe implements layer.Said.
func (rw *rwLayer) Describe(st *unix.Stat_t, e *layer.Entry) {
	m := rw.owners.Of(st)
	e.UID, e.GID, e.Mode, e.Xattrs = int(m.UID), int(m.GID), int64(m.Mode), nil
	if e.Type == layer.File || e.Type == layer.Dir {
		e.Xattrs = recorded(m.Xattrs)
	}
	switch m.Type {
	case unix.S_IFCHR:
		e.Type = layer.Char
	case unix.S_IFBLK:
		e.Type = layer.Block
	default:
		return
	}
	e.Size, e.Xattrs = 0, nil
	e.Devmajor, e.Devminor = unix.Major(m.Rdev), unix.Minor(m.Rdev)
}

// Unchanged implements layer.Said.
func (rw *rwLayer) Unchanged(name string, st *unix.Stat_t) bool {
	o, ok := rw.origins.of(name)
	return ok && o.ino == st.Ino && (o.linked || o.change == st.Ctim.Nano())
}

// Forbid implements snapshot.Guarded.
func (rw *rwLayer) Forbid(content [][]byte) { rw.forbidden = content }

func (rw *rwLayer) Commit() (snapshot.ROLayer, error) {
	return rw.CommitContext(context.Background())
}

// CommitContext implements snapshot.Stoppable.
func (rw *rwLayer) CommitContext(ctx context.Context) (snapshot.ROLayer, error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if rw.released || rw.used {
		return nil, errors.New("committing a layer: it is released or committed already")
	}
	rw.used = true
	l, ix, err := rw.write(ctx)
	if err != nil {
		return nil, fmt.Errorf("committing a layer: %w", err)
	}
	if err := rw.s.opts.Store.PutLayer(l, ix); err != nil {
		return nil, fmt.Errorf("committing layer %s: %w", l.DiffID, err)
	}
	ro := &roLayer{s: rw.s, chain: append(slices.Clone(rw.below.chain), l), indexes: append(slices.Clone(rw.below.indexes), ix)}
	contents, err := rw.contents(ix)
	if err != nil {
		return nil, fmt.Errorf("committing layer %s: %w", l.DiffID, err)
	}
	dir, err := rw.s.opts.Store.CommitSnapshot(snapshotID(ro.chain), contents)
	if err != nil {
		return nil, fmt.Errorf("committing layer %s: %w", l.DiffID, err)
	}
	ro.dirs = append(slices.Clone(rw.below.dirs), dir)
	return ro, rw.leave(ro, ix, dir)
}

// write makes a layer of what changed: tar, digests, compression and the blob's file in one pass.
func (rw *rwLayer) write(ctx context.Context) (layer.Layer, *layer.Index, error) {
	blob, err := rw.s.opts.Store.NewBlob(ctx)
	if err != nil {
		return layer.Layer{}, nil, err
	}
	defer blob.Abort()
	w, err := layer.NewWriter(blob, rw.s.opts.Compression)
	if err != nil {
		return layer.Layer{}, nil, err
	}
	w.Clamp, w.Forbidden, w.Temp = rw.s.opts.Clamp, rw.forbidden, rw.s.opts.Store.TempFile
	if err := layer.DiffRoot(ctx, rw.Root(), rw.below.tree(), rw, w); err != nil {
		return layer.Layer{}, nil, err
	}
	diffID, mediaType, ix, err := w.Close()
	if err != nil {
		return layer.Layer{}, nil, err
	}
	desc, err := blob.Commit("")
	if err != nil {
		return layer.Layer{}, nil, err
	}
	desc.MediaType = mediaType
	return layer.Layer{DiffID: diffID, Descriptor: desc}, ix, nil
}

// contents makes the snapshot of the new layer: its files, moved out of the root filesystem, which nobody needs any more.
func (rw *rwLayer) contents(ix *layer.Index) (dir string, err error) {
	dir = filepath.Join(rw.dir, "contents")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	to, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer to.Close()
	from, err := os.OpenRoot(rw.Root())
	if err != nil {
		return "", err
	}
	defer from.Close()
	for e := range ix.All() {
		if e.Type != layer.File {
			continue
		}
		if err := to.MkdirAll(path.Dir(e.Path), 0o700); err != nil {
			return "", err
		}
		if err := rw.move(from, to, e); err != nil {
			return "", fmt.Errorf("keeping %q: %w", e.Path, err)
		}
	}
	return dir, ix.Err()
}

// move hard-links one file. One that other root filesystems share, of which only the metadata changed, is linked once more.
func (rw *rwLayer) move(from, to *os.Root, e *layer.Entry) error {
	src, err := from.OpenFile(e.Path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := to.Open(path.Dir(e.Path))
	if err != nil {
		return err
	}
	defer dst.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if rw.s.opts.Clamp == nil || fi.ModTime().Unix() == e.ModTime.Unix() {
		err := unix.Linkat(unix.AT_FDCWD, selfFD(int(src.Fd())), int(dst.Fd()), path.Base(e.Path), unix.AT_SYMLINK_FOLLOW)
		if !errors.Is(err, unix.EMLINK) {
			return err
		}
	}
	out, err := to.OpenFile(e.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(fakeroot.CopyFile(out, src, e.Size), out.Chmod(os.FileMode(fakeroot.RealMode(uint32(e.Mode), false))), out.Close())
	return errors.Join(err, to.Chtimes(e.Path, e.ModTime, e.ModTime))
}

func (rw *rwLayer) Release() error {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if rw.released {
		return nil
	}
	if err := rw.s.opts.Store.RemoveTemp(rw.dir); err != nil {
		return fmt.Errorf("releasing a layer: %w", err)
	}
	rw.released = true
	return nil
}
