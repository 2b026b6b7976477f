package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// unpacking is the work of one Open: what is missing of a chain.
//
// All layers are unpacked at once, as far as Jobs allows. A layer's Unpack asks for the files below when an entry lies in a directory
// the layer does not bring itself, and at its end; only then it waits for the indexes of the layers below. Layers start bottom first and
// wait only for lower ones, also across processes, so that nothing ever waits in a circle.
type unpacking struct {
	s     *Snapshotter
	nodes []*node
}

// node is one layer of a chain.
type node struct {
	u        *unpacking
	n        int
	layer    layer.Layer
	snapshot digest.Digest
	// dir is the snapshot, "" until it is there.
	dir string
	// done is closed when the snapshot that this call has to make is there, or err says why not; nil if it is not to be made.
	done chan struct{}
	err  error

	mu sync.Mutex
	ix *layer.Index
}

func (s *Snapshotter) newUnpacking(chain []layer.Layer) *unpacking {
	u := &unpacking{s: s}
	for i, id := range chainIDs(chain) {
		u.nodes = append(u.nodes, &node{u: u, n: i, layer: chain[i], snapshot: s.snapshotID(id)})
	}
	return u
}

// run makes the missing snapshots of the layers from the first on.
func (u *unpacking) run(ctx context.Context, first int) error {
	missing := false
	for _, n := range u.nodes[first:] {
		dir, err := u.s.opts.Store.Snapshot(n.snapshot)
		if errors.Is(err, fs.ErrNotExist) {
			n.done = make(chan struct{})
			missing = true
		} else if err != nil {
			return err
		}
		n.dir = dir
	}
	if !missing {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(u.s.opts.Jobs)
	for _, n := range u.nodes[first:] {
		if n.done == nil {
			continue
		}
		g.Go(func() error {
			defer close(n.done)
			n.err = n.unpack(ctx)
			if _, said := errors.AsType[*layer.UnusableError](n.err); said {
				return n.err
			}
			if n.err != nil {
				return fmt.Errorf("unpacking layer %s: %w", n.layer.DiffID, n.err)
			}
			return nil
		})
	}
	return g.Wait()
}

// unpack makes the snapshot of one layer, unless somebody else has made it meanwhile.
func (n *node) unpack(ctx context.Context) error {
	st := n.u.s.opts.Store
	unlock, err := st.Lock(ctx, "snapshot "+n.snapshot.String())
	if err != nil {
		return err
	}
	defer unlock()
	if dir, err := st.Snapshot(n.snapshot); err == nil {
		n.dir = dir
		return nil
	}
	dir, err := st.NewSnapshot()
	if err != nil {
		return err
	}
	committed := false
	defer func() {
		if !committed {
			_ = st.RemoveTemp(dir)
		}
	}()
	if _, err := n.readLayer(ctx, dir); err != nil {
		return err
	}
	if n.dir, err = st.CommitSnapshot(n.snapshot, dir); err != nil {
		return err
	}
	committed = true
	return nil
}

// readLayer reads the layer's blob and keeps its index; with a dir it is unpacked there too.
func (n *node) readLayer(ctx context.Context, dir string) (*layer.Index, error) {
	r, err := n.u.s.opts.Blob(ctx, n.layer)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var lower layer.Tree
	if n.n > 0 {
		lower = n.lower(ctx)
	}
	unpack := layer.Unpack
	if n.u.s.opts.OneOwner {
		unpack = layer.UnpackOneOwner
	}
	ix, err := unpack(ctx, r, n.layer, dir, lower, n.u.s.opts.Limits)
	if err != nil {
		return nil, &layer.UnusableError{Layer: n.layer, Err: err}
	}
	if err := n.u.s.opts.Store.PutLayer(n.layer, ix); err != nil {
		return nil, err
	}
	n.setIndex(ix)
	return ix, nil
}

func (n *node) setIndex(ix *layer.Index) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ix = ix
}

// index returns the layer's index: remembered, from the store, from this call's own unpacking, or else by reading the blob again.
func (n *node) index(ctx context.Context) (*layer.Index, error) {
	if ix := n.known(); ix != nil {
		return ix, nil
	}
	if n.done != nil {
		select {
		case <-n.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if n.err != nil {
			return nil, n.err
		}
		if ix := n.known(); ix != nil {
			return ix, nil
		}
	}
	ix, err := n.readLayer(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("listing layer %s: %w", n.layer.DiffID, err)
	}
	return ix, nil
}

// known returns the index if it need not be waited for, else nil.
func (n *node) known() *layer.Index {
	n.mu.Lock()
	ix := n.ix
	n.mu.Unlock()
	if ix != nil {
		return ix
	}
	// Whatever is wrong with a kept index, it can be made again.
	ix, err := n.u.s.opts.Store.LayerIndex(n.layer.DiffID)
	if err != nil {
		return nil
	}
	n.setIndex(ix)
	return ix
}

// lower returns the tree of the layers below n, which are asked for when the tree is.
func (n *node) lower(ctx context.Context) layer.Tree {
	return layer.Lazy(func() (layer.Tree, error) {
		below := n.u.nodes[:n.n]
		ixs := make([]*layer.Index, len(below))
		for i, b := range below {
			var err error
			if ixs[i], err = b.index(ctx); err != nil {
				return nil, err
			}
		}
		return layer.Stack(ixs, nil), nil
	})
}
