package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"
)

// rwLayer implements snapshot.RWLayer.
type rwLayer struct {
	s *Snapshotter
	// below is the layer under it. Only its values are used: it may be released meanwhile.
	below *roLayer
	// scratch is where it is made. It is not its own any more once it is given.
	*scratch
	// lower is the topmost directory under upper.
	lower string
	// forbidden must not be in the layer.
	forbidden [][]byte
	// owners is keyed by the files of the mount.
	owners *fakeroot.Table

	mu       sync.Mutex
	mounted  bool
	used     bool // committed, or tried
	given    bool
	released bool
}

var (
	_ snapshot.Guarded = (*rwLayer)(nil)
	_ snapshot.Early   = (*rwLayer)(nil)
)

var epoch = time.Unix(0, 0)

func newRWLayer(below *roLayer) (_ *rwLayer, err error) {
	dir, err := below.takeScratch()
	if err != nil {
		return nil, err
	}
	rw := &rwLayer{s: below.s, below: below, scratch: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, rw.Release())
		}
	}()
	if err := os.Mkdir(rw.path("upper"), 0o755); err != nil {
		return nil, err
	}
	lowers, err := below.lowers()
	if err != nil {
		return nil, err
	}
	if len(lowers) == 0 {
		empty, err := rw.empty()
		if err != nil {
			return nil, err
		}
		lowers = []string{empty}
	}
	rw.lower = lowers[len(lowers)-1]
	if err := copyRoot(rw.lower, rw.path("upper")); err != nil {
		return nil, err
	}
	slices.Reverse(lowers)
	rw.mounted = true
	if err := mountOverlay(rw.dir, lowers); err != nil {
		return nil, err
	}
	if err := rw.seedOwners(); err != nil {
		return nil, err
	}
	return rw, nil
}

func (rw *rwLayer) Root() string { return rw.path("root") }

// Forbid implements snapshot.Guarded.
func (rw *rwLayer) Forbid(content [][]byte) { rw.forbidden = content }

func (rw *rwLayer) Commit() (snapshot.ROLayer, error) {
	return rw.CommitContext(context.Background())
}

// CommitContext implements snapshot.Stoppable.
func (rw *rwLayer) CommitContext(ctx context.Context) (snapshot.ROLayer, error) {
	ro, rest, err := rw.commit(ctx, nil)
	if err != nil {
		return nil, err
	}
	l, err := rest()
	if err != nil {
		return nil, errors.Join(err, ro.Release())
	}
	ro.chain[len(ro.chain)-1] = l
	return ro, nil
}

// CommitEarly implements snapshot.Early.
func (rw *rwLayer) CommitEarly(ctx context.Context) (snapshot.ROLayer, func() (layer.Layer, error), error) {
	ro, rest, err := rw.commit(ctx, rw.s.opts.Store.TempFile)
	if err != nil {
		return nil, nil, err
	}
	return ro, rest, nil
}

// commit makes the layer and its snapshot. The blob may be unfinished, and the layer on top of the chain without a Descriptor, until rest has
// returned it.
func (rw *rwLayer) commit(ctx context.Context, spool func() (*os.File, error)) (_ *roLayer, rest func() (layer.Layer, error), err error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if rw.released || rw.used {
		return nil, nil, errors.New("committing a layer: it is released or committed already")
	}
	rw.used = true
	owners, err := rw.upperOwners()
	if err != nil {
		return nil, nil, fmt.Errorf("committing a layer: %w", err)
	}
	// Without a mount nobody changes the upper directory any more.
	if err := unmount(rw.Root(), 0); err != nil {
		return nil, nil, fmt.Errorf("committing a layer: %w", err)
	}
	rw.mounted = false
	made, err := rw.write(ctx, owners, spool)
	if err != nil {
		return nil, nil, fmt.Errorf("committing a layer: %w", err)
	}
	ro, err := rw.keep(made.diffID, made.index)
	if err != nil {
		made.abort()
		return nil, nil, fmt.Errorf("committing layer %s: %w", made.diffID, err)
	}
	return ro, made.rest, nil
}

// keep makes the upper directory the snapshot of the layer it became.
func (rw *rwLayer) keep(diffID digest.Digest, ix *layer.Index) (*roLayer, error) {
	st := rw.s.opts.Store
	if err := st.PutIndex(diffID, ix); err != nil {
		return nil, err
	}
	chainID := diffID
	if n := len(rw.below.chainIDs); n > 0 {
		chainID = identity.ChainID([]digest.Digest{rw.below.chainIDs[n-1], diffID})
	}
	ro := &roLayer{
		s:        rw.s,
		chain:    append(slices.Clone(rw.below.chain), layer.Layer{DiffID: diffID}),
		chainIDs: append(slices.Clone(rw.below.chainIDs), chainID),
		indexes:  append(slices.Clone(rw.below.indexes), ix),
	}
	// A layer says nothing of its root, so that what was done to it ends here, as it does for whoever has only the layer.
	if err := copyRoot(rw.lower, rw.path("upper")); err != nil {
		return nil, err
	}
	dir, err := st.CommitSnapshot(rw.s.snapshotID(chainID), rw.path("upper"))
	if err != nil {
		return nil, err
	}
	ro.dirs = append(slices.Clone(rw.below.dirs), dir)
	if err := rw.clear(); err != nil {
		return nil, err
	}
	ro.scratch, rw.given = rw.scratch, true
	return ro, nil
}

// written is a layer whose archive is complete. One of rest and abort must be called.
type written struct {
	diffID digest.Digest
	index  *layer.Index
	// rest waits for the blob and makes the layer known.
	rest func() (layer.Layer, error)
	// abort drops it.
	abort func()
}

// write makes a layer of the upper directory: tar, digests, compression and the blob's file in one pass.
func (rw *rwLayer) write(ctx context.Context, owners *fakeroot.Table, spool func() (*os.File, error)) (_ written, err error) {
	st := rw.s.opts.Store
	blob, err := st.NewBlob(ctx)
	if err != nil {
		return written{}, err
	}
	w, err := layer.NewWriter(blob, rw.s.opts.Compression)
	if err != nil {
		blob.Abort()
		return written{}, err
	}
	abort := func() {
		w.Abort()
		blob.Abort()
	}
	defer func() {
		if err != nil {
			abort()
		}
	}()
	w.Clamp, w.Forbidden, w.Spool, w.Temp = rw.s.opts.Clamp, rw.forbidden, spool, rw.s.opts.Store.TempFile
	if err := layer.DiffDescribed(ctx, rw.path("upper"), rw.below.tree(), describer(owners), w); err != nil {
		return written{}, err
	}
	diffID, ix, finish, err := w.End()
	if err != nil {
		return written{}, err
	}
	rest := func() (layer.Layer, error) {
		defer context.AfterFunc(ctx, w.Abort)()
		defer blob.Abort()
		mediaType, err := finish()
		if err != nil {
			return layer.Layer{}, fmt.Errorf("compressing layer %s: %w", diffID, err)
		}
		desc, err := blob.Commit("")
		if err != nil {
			return layer.Layer{}, fmt.Errorf("committing layer %s: %w", diffID, err)
		}
		desc.MediaType = mediaType
		l := layer.Layer{DiffID: diffID, Descriptor: desc}
		return l, st.PutLayer(l, nil)
	}
	return written{diffID: diffID, index: ix, rest: rest, abort: abort}, nil
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
	if !rw.given {
		if err := rw.remove(); err != nil {
			return fmt.Errorf("releasing a layer: %w", err)
		}
	}
	rw.released = true
	return nil
}
