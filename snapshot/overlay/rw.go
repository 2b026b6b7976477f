package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/snapshot"
	"golang.org/x/sys/unix"
)

// rwLayer implements snapshot.RWLayer. Its directory in the store's tmp holds upper, work, root (where it is mounted) and, if
// need be, empty and base (see mountOverlay).
type rwLayer struct {
	s *Snapshotter
	// below is the layer under it. Only its values are used: it may be released meanwhile.
	below *roLayer
	dir   string
	// lower is the topmost directory under upper.
	lower string
	// forbidden must not be in the layer.
	forbidden [][]byte
	// owners is keyed by the files of the mount.
	owners *fakeroot.Table

	mu       sync.Mutex
	mounted  bool
	used     bool // committed, or tried
	released bool
}

var _ snapshot.Guarded = (*rwLayer)(nil)

var epoch = time.Unix(0, 0)

func newRWLayer(below *roLayer) (_ *rwLayer, err error) {
	dir, err := below.s.opts.Store.TempDir("rw-")
	if err != nil {
		return nil, err
	}
	rw := &rwLayer{s: below.s, below: below, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, rw.Release())
		}
	}()
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(rw.path(name), 0o755); err != nil {
			return nil, err
		}
	}
	lowers := slices.Clone(below.dirs)
	if len(lowers) == 0 {
		if err := os.Mkdir(rw.path("empty"), 0o755); err != nil {
			return nil, err
		}
		// As a root looks that no layer describes.
		if err := errors.Join(os.Chmod(rw.path("empty"), 0o755), os.Chtimes(rw.path("empty"), epoch, epoch)); err != nil {
			return nil, err
		}
		lowers = []string{rw.path("empty")}
	}
	rw.lower = lowers[len(lowers)-1]
	if err := copyRoot(rw.lower, rw.path("upper")); err != nil {
		return nil, err
	}
	slices.Reverse(lowers)
	rw.mounted = true
	if err := mountOverlay(dir, lowers); err != nil {
		return nil, err
	}
	if err := rw.seedOwners(); err != nil {
		return nil, err
	}
	return rw, nil
}

func (rw *rwLayer) path(name string) string { return filepath.Join(rw.dir, name) }

func (rw *rwLayer) Root() string { return rw.path("root") }

// Forbid implements snapshot.Guarded.
func (rw *rwLayer) Forbid(content [][]byte) { rw.forbidden = content }

func (rw *rwLayer) Commit() (snapshot.ROLayer, error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if rw.released || rw.used {
		return nil, errors.New("committing a layer: it is released or committed already")
	}
	rw.used = true
	owners, err := rw.upperOwners()
	if err != nil {
		return nil, fmt.Errorf("committing a layer: %w", err)
	}
	// Without a mount nobody changes the upper directory any more.
	if err := unmount(rw.Root(), 0); err != nil {
		return nil, fmt.Errorf("committing a layer: %w", err)
	}
	rw.mounted = false
	l, ix, err := rw.write(context.Background(), owners)
	if err != nil {
		return nil, fmt.Errorf("committing a layer: %w", err)
	}
	st := rw.s.opts.Store
	if err := st.PutLayer(l, ix); err != nil {
		return nil, fmt.Errorf("committing layer %s: %w", l.DiffID, err)
	}
	rw.s.indexes.put(l.DiffID, ix)
	ro := &roLayer{
		s:       rw.s,
		chain:   append(slices.Clone(rw.below.chain), l),
		indexes: append(slices.Clone(rw.below.indexes), ix),
	}
	ids := rw.s.snapshotIDs(ro.chain)
	// A layer says nothing of its root, so that what was done to it ends here, as it does for whoever has only the layer.
	if err := copyRoot(rw.lower, rw.path("upper")); err != nil {
		return nil, fmt.Errorf("committing layer %s: %w", l.DiffID, err)
	}
	dir, err := st.CommitSnapshot(ids[len(ids)-1], rw.path("upper"))
	if err != nil {
		return nil, fmt.Errorf("committing layer %s: %w", l.DiffID, err)
	}
	ro.dirs = append(slices.Clone(rw.below.dirs), dir)
	return ro, nil
}

// write makes a layer of the upper directory: tar, digests, compression and the blob's file in one pass.
func (rw *rwLayer) write(ctx context.Context, owners *fakeroot.Table) (layer.Layer, *layer.Index, error) {
	blob, err := rw.s.opts.Store.NewBlob(ctx)
	if err != nil {
		return layer.Layer{}, nil, err
	}
	defer blob.Abort()
	w, err := layer.NewWriter(blob, rw.s.opts.Compression)
	if err != nil {
		return layer.Layer{}, nil, err
	}
	w.Clamp, w.Forbidden = rw.s.opts.Clamp, rw.forbidden
	if err := layer.DiffDescribed(ctx, rw.path("upper"), rw.below.tree(), describer(owners), w); err != nil {
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

func (rw *rwLayer) Release() error {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if rw.released {
		return nil
	}
	// Whatever still works in it loses its root filesystem: nothing of it is kept.
	if rw.mounted {
		if err := unmount(rw.Root(), unix.MNT_DETACH); err != nil {
			return fmt.Errorf("releasing a layer: %w", err)
		}
		rw.mounted = false
	}
	if err := rw.s.opts.Store.RemoveTemp(rw.dir); err != nil {
		return fmt.Errorf("releasing a layer: %w", err)
	}
	rw.released = true
	return nil
}
