// Package native is the snapshotter for places where nothing can be mounted and no owner changed: a root filesystem is a directory with every
// file of its layers in it.
//
// Each layer is unpacked once, contents only; what else is to say of files is in the layers' indexes. A writable root filesystem is put
// together from them, directories and links made anew, files hard-linked where the executor copies what it is about to change
// (Options.Link), else copied, by reflink where there are such. Owners, modes, devices and attributes go into a fakeroot.Table (see
// snapshot.Owned), and from there, as the executor leaves it, into the next layer. What did not change is known by inode, and by time of change where
// files were copied, and need not be read.
package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
)

// Options is what a Snapshotter works with.
type Options struct {
	// Store keeps the snapshots, the layers committed and their indexes.
	Store *store.Store
	// Blob returns the compressed bytes of a layer that has to be unpacked.
	Blob func(ctx context.Context, l layer.Layer) (io.ReadCloser, error)
	// Limits bounds what a layer may cost to unpack.
	Limits layer.Limits
	// Compression is that of committed layers.
	Compression layer.Compression
	// Clamp, when not nil, is the latest modification time in a committed layer; later ones become it, in the snapshot too.
	Clamp *time.Time
	// Link shares files between root filesystems by hard links. It is safe only with an executor that heeds fakeroot.Table.Shared.
	Link bool
}

// Snapshotter implements snapshot.Snapshotter with directories.
type Snapshotter struct{ opts Options }

var _ snapshot.Snapshotter = (*Snapshotter)(nil)

// New returns a Snapshotter.
func New(o Options) (*Snapshotter, error) {
	if o.Store == nil || o.Blob == nil {
		return nil, errors.New("native: Options need a Store and a Blob function")
	}
	if o.Limits.Temp == nil {
		o.Limits.Temp = o.Store.TempFile
	}
	return &Snapshotter{opts: o}, nil
}

// Name implements snapshot.Snapshotter.
func (s *Snapshotter) Name() string { return "native" }

// Open implements snapshot.Snapshotter.
func (s *Snapshotter) Open(ctx context.Context, chain []layer.Layer) (snapshot.ROLayer, error) {
	ro := &roLayer{s: s, chain: slices.Clone(chain)}
	for i := range chain {
		dir, ix, err := s.unpacked(ctx, chain[:i+1], ro.indexes)
		if err != nil {
			return nil, err
		}
		ro.dirs, ro.indexes = append(ro.dirs, dir), append(ro.indexes, ix)
	}
	return ro, nil
}

// OpenFile implements snapshot.Snapshotter. name is where the file lies in the root filesystem, as layer.Stack opens it.
func (s *Snapshotter) OpenFile(ctx context.Context, chain []layer.Layer, name string) (io.ReadCloser, error) {
	if len(chain) == 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	// The layers below are wanted for where this one's files lie; mostly they are there.
	ro, err := s.Open(ctx, chain)
	if err != nil {
		return nil, err
	}
	dirs := ro.(*roLayer).dirs
	f, err := snapshot.OpenFile(dirs[len(dirs)-1], name)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", chain[len(chain)-1].DiffID, err)
	}
	return f, ro.Release()
}

// unpacked returns the directory and the index of the last layer of a chain. below are the indexes of the others.
func (s *Snapshotter) unpacked(ctx context.Context, chain []layer.Layer, below []*layer.Index) (string, *layer.Index, error) {
	l, id, st := chain[len(chain)-1], snapshotID(chain), s.opts.Store
	there := func() (string, *layer.Index, bool) {
		dir, err := st.Snapshot(id)
		if err != nil {
			return "", nil, false
		}
		// Whatever is wrong with a kept index, it can be made again.
		ix, err := st.LayerIndex(l.DiffID)
		return dir, ix, err == nil
	}
	if dir, ix, ok := there(); ok {
		return dir, ix, nil
	}
	unlock, err := st.Lock(ctx, "snapshot "+id.String())
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	if dir, ix, ok := there(); ok {
		return dir, ix, nil
	}
	temp, err := st.NewSnapshot()
	if err != nil {
		return "", nil, err
	}
	dir, ix, err := s.unpack(ctx, chain, below, temp)
	if err != nil {
		if _, said := errors.AsType[*layer.UnusableError](err); !said {
			err = fmt.Errorf("unpacking layer %s: %w", l.DiffID, err)
		}
		return "", nil, errors.Join(err, st.RemoveTemp(temp))
	}
	return dir, ix, nil
}

func (s *Snapshotter) unpack(ctx context.Context, chain []layer.Layer, below []*layer.Index, temp string) (string, *layer.Index, error) {
	l := chain[len(chain)-1]
	r, err := s.opts.Blob(ctx, l)
	if err != nil {
		return "", nil, err
	}
	defer r.Close()
	var lower layer.Tree
	if len(below) > 0 {
		lower = layer.Stack(below, nil)
	}
	ix, err := layer.UnpackContents(ctx, r, l, temp, lower, s.opts.Limits)
	if err != nil {
		return "", nil, &layer.UnusableError{Layer: l, Err: err}
	}
	if err := s.opts.Store.PutLayer(l, ix); err != nil {
		return "", nil, err
	}
	dir, err := s.opts.Store.CommitSnapshot(snapshotID(chain), temp)
	return dir, ix, err
}

// snapshotID is the name of a chain's top snapshot in the store: not its ChainID, under which other snapshotters keep another form.
func snapshotID(chain []layer.Layer) digest.Digest {
	ids := make([]digest.Digest, len(chain))
	for i, l := range chain {
		ids[i] = l.DiffID
	}
	return digest.FromString("contents of " + identity.ChainID(ids).String())
}

// roLayer implements snapshot.ROLayer.
type roLayer struct {
	s *Snapshotter
	// chain, dirs and indexes are of the same layers, bottom first.
	chain   []layer.Layer
	dirs    []string
	indexes []*layer.Index

	mu       sync.Mutex
	released bool
	warm     *rwLayer // see leave
}

func (l *roLayer) Release() error {
	l.mu.Lock()
	l.released = true
	l.mu.Unlock()
	return l.dropWarm()
}

func (l *roLayer) DiffID() digest.Digest {
	if len(l.chain) == 0 {
		return snapshot.EmptyDiffID
	}
	return l.chain[len(l.chain)-1].DiffID
}

func (l *roLayer) ContentStoreDigest() digest.Digest { return "" }

func (l *roLayer) Chain() []layer.Layer { return l.chain }

// tree is what the layers show together.
func (l *roLayer) tree() layer.Tree {
	return layer.Stack(l.indexes, func(n int, name string) (io.ReadCloser, error) { return snapshot.OpenFile(l.dirs[n], name) })
}

func (l *roLayer) NewRWLayer() (snapshot.RWLayer, error) {
	l.mu.Lock()
	released := l.released
	l.mu.Unlock()
	if released {
		return nil, errors.New("opening a writable layer: the layer below is released")
	}
	if rw := l.takeWarm(); rw != nil {
		return rw, nil
	}
	rw, err := newRWLayer(l)
	if err != nil {
		return nil, fmt.Errorf("opening a writable layer: %w", err)
	}
	return rw, nil
}

// Index returns the index of a layer that was unpacked or committed here.
func (s *Snapshotter) Index(l layer.Layer) (*layer.Index, error) {
	return s.opts.Store.LayerIndex(l.DiffID)
}
