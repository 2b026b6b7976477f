// Package overlay is the snapshotter over the kernel's overlayfs: every layer is unpacked once into a directory of its own, and a root
// filesystem is a mount of those directories with a fresh one on top. What a step wrote is then exactly what lies in its upper
// directory, and that directory, renamed, is the snapshot of the layer made of it: nothing is copied or unpacked a second time.
//
// Mounts carry userxattr, with which overlayfs works in a user namespace (Linux 5.11) and keeps its marks in user.overlay.*; as real root it
// is the same, so that snapshots have one form everywhere. They are volatile: a step's root filesystem is scratch, and
// nothing in it is worth a sync.
//
// The process must be in a mount namespace of its own whose mounts do not propagate to others (package userns arranges
// that): then a process that dies leaves no mount behind, and its directories are removed by the store.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
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
	// Clamp, when not nil, is the latest modification time in a committed layer; later ones become it. In the snapshot, and so for the
	// steps that follow in this build, times stay as they were.
	Clamp *time.Time
	// OneOwner means that files can have no other owner than this process, as in a user namespace with one id: who they are to belong to is
	// in the layers, and in the tables of writable root filesystems (snapshot.Owned).
	OneOwner bool
	// Jobs is how many layers are unpacked at once by one Open; 0 is 4.
	Jobs int
	// Fold is how many neighbouring small layers of a long chain become one directory; 0 is 32, 1 means that none do.
	Fold int
}

// defaultJobs keeps the network busy while one layer decompresses.
const defaultJobs = 4

// Snapshotter implements snapshot.Snapshotter over overlayfs.
type Snapshotter struct{ opts Options }

var _ snapshot.Snapshotter = (*Snapshotter)(nil)

// New returns a Snapshotter.
func New(o Options) (*Snapshotter, error) {
	if o.Store == nil || o.Blob == nil {
		return nil, errors.New("overlay: Options need a Store and a Blob function")
	}
	if o.Jobs < 0 || o.Fold < 0 {
		return nil, fmt.Errorf("overlay: Jobs is %d, Fold is %d", o.Jobs, o.Fold)
	}
	if o.Jobs == 0 {
		o.Jobs = defaultJobs
	}
	if o.Fold == 0 {
		o.Fold = foldLayers
	}
	if o.Limits.Temp == nil {
		o.Limits.Temp = o.Store.TempFile
	}
	o.Compression = o.Compression.Reusing()
	return &Snapshotter{opts: o}, nil
}

// Name implements snapshot.Snapshotter.
func (s *Snapshotter) Name() string { return "overlay" }

// Open implements snapshot.Snapshotter. Layers that are not unpacked yet are, several at once; what another process is
// unpacking is waited for.
func (s *Snapshotter) Open(ctx context.Context, chain []layer.Layer) (snapshot.ROLayer, error) {
	chain = slices.Clone(chain)
	p := s.newUnpacking(chain)
	if err := p.run(ctx, 0); err != nil {
		return nil, err
	}
	ro := &roLayer{s: s, chain: chain, chainIDs: chainIDs(chain)}
	for _, n := range p.nodes {
		ix, err := n.index(ctx)
		if err != nil {
			return nil, err
		}
		ro.dirs = append(ro.dirs, n.dir)
		ro.indexes = append(ro.indexes, ix)
	}
	return ro, nil
}

// OpenFile implements snapshot.Snapshotter. Only the last layer of chain is unpacked if it is not. name is where the file lies in the
// root filesystem, which differs from its path in the tar when it passes through a symlink of a lower layer (layer.Stack).
func (s *Snapshotter) OpenFile(ctx context.Context, chain []layer.Layer, name string) (io.ReadCloser, error) {
	if len(chain) == 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	p := s.newUnpacking(slices.Clone(chain))
	if err := p.run(ctx, len(chain)-1); err != nil {
		return nil, err
	}
	f, err := snapshot.OpenFile(p.nodes[len(chain)-1].dir, name)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", chain[len(chain)-1].DiffID, err)
	}
	return f, nil
}

// chainIDs returns the ChainID that each layer of a chain completes.
func chainIDs(chain []layer.Layer) []digest.Digest {
	ids := make([]digest.Digest, len(chain))
	for i, l := range chain {
		ids[i] = l.DiffID
	}
	return identity.ChainIDs(ids)
}

// snapshotID is the name in the store of the snapshot of a layer, by the ChainID that it completes: that itself or, where what is on disk
// differs from what others have, one made of it.
func (s *Snapshotter) snapshotID(chainID digest.Digest) digest.Digest {
	if s.opts.OneOwner {
		return digest.FromString("one owner of " + chainID.String())
	}
	return chainID
}

// roLayer implements snapshot.ROLayer.
type roLayer struct {
	s *Snapshotter
	// chain, chainIDs, dirs and indexes are of the same layers, bottom first.
	chain    []layer.Layer
	chainIDs []digest.Digest
	dirs     []string
	indexes  []*layer.Index

	mu       sync.Mutex
	released bool
	// scratch is what the writable layer that became this one has left for the next; nil for none.
	scratch *scratch
}

func (l *roLayer) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = true
	if l.scratch == nil {
		return nil
	}
	if err := l.scratch.remove(); err != nil {
		return fmt.Errorf("releasing a layer: %w", err)
	}
	l.scratch = nil
	return nil
}

// takeScratch returns a directory for a writable layer.
func (l *roLayer) takeScratch() (*scratch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return nil, errors.New("the layer below is released")
	}
	if s := l.scratch; s != nil {
		l.scratch = nil
		return s, nil
	}
	return newScratch(l.s.opts.Store)
}

func (l *roLayer) DiffID() digest.Digest {
	if len(l.chain) == 0 {
		return snapshot.EmptyDiffID
	}
	return l.chain[len(l.chain)-1].DiffID
}

// ContentStoreDigest implements snapshot.ROLayer: blobs are known by layer.Layer, not by a content store.
func (l *roLayer) ContentStoreDigest() digest.Digest { return "" }

func (l *roLayer) Chain() []layer.Layer { return l.chain }

// tree is what the layers show together.
func (l *roLayer) tree() layer.Tree {
	return layer.Stack(l.indexes, func(n int, name string) (io.ReadCloser, error) {
		return snapshot.OpenFile(l.dirs[n], name)
	})
}

func (l *roLayer) NewRWLayer() (snapshot.RWLayer, error) {
	rw, err := newRWLayer(l)
	if err != nil {
		return nil, fmt.Errorf("opening a writable layer: %w", err)
	}
	return rw, nil
}
