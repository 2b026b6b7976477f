package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// MaxLayerDepth is how many layers an image may have: beyond it, Docker cannot mount it.
const MaxLayerDepth = 125

// ChainID identifies a layer together with all those below it (OCI image-spec, config.md).
type ChainID = digest.Digest

// StoredLayer is a layer with all those below it, as a LayerGetReleaser hands it out.
type StoredLayer interface {
	ChainID() ChainID
	DiffID() digest.Digest
	// Parent is the layer below; nil for the lowest.
	Parent() StoredLayer
	// TarStream returns the uncompressed archive of this one layer, whose digest is DiffID; at its end that has been checked.
	TarStream() (io.ReadCloser, error)
	// Size is that of the files of this layer and of all below it, DiffSize that of this one; in bytes.
	Size() int64
	DiffSize() int64
}

// LayerMetadata is what remains to be said of a layer that nobody holds any more.
type LayerMetadata struct {
	ChainID ChainID
	DiffID  digest.Digest
	// Size and DiffSize are those of StoredLayer.
	Size, DiffSize int64
}

// LayerGetReleaser gives layers out by ChainID and counts who holds them.
type LayerGetReleaser interface {
	// Get returns a layer, to be given back with Release; ErrLayerDoesNotExist if it is not there.
	Get(ChainID) (StoredLayer, error)
	// Release gives a layer back. It returns those layers, the upper before the lower, that are now held by nobody.
	Release(StoredLayer) ([]LayerMetadata, error)
}

// Layers are the layers of a store by ChainID. A layer is there if its bytes are held, or if it is known where to fetch them. What
// nobody holds is not removed: the store's garbage collection does that for what no image and no cache record needs. It is
// safe for concurrent use.
type Layers struct {
	store *store.Store
	// chains finds the layers of a ChainID that no image has yet taught.
	chains func(ChainID) ([]digest.Digest, error)

	mu    sync.Mutex
	known map[ChainID][]digest.Digest
	held  map[ChainID]int
}

// learn makes known which stack of layers a ChainID stands for, which the ChainID itself does not tell.
func (ls *Layers) learn(diffIDs []digest.Digest) {
	if len(diffIDs) == 0 {
		return
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.known[identity.ChainID(slices.Clone(diffIDs))] = slices.Clone(diffIDs)
}

// Get implements LayerGetReleaser.
func (ls *Layers) Get(id ChainID) (StoredLayer, error) {
	ls.mu.Lock()
	diffIDs, ok := ls.known[id]
	ls.mu.Unlock()
	if !ok {
		var err error
		if diffIDs, err = ls.chains(id); err != nil {
			return nil, err
		}
		ls.learn(diffIDs)
	}
	if len(diffIDs) > MaxLayerDepth {
		return nil, ErrMaxDepthExceeded
	}
	var top *storedLayer
	for i, chain := range identity.ChainIDs(slices.Clone(diffIDs)) {
		l, err := ls.layer(diffIDs[i])
		if err != nil {
			return nil, err
		}
		top = &storedLayer{layers: ls, chain: chain, layer: l, parent: top}
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := top; l != nil; l = l.parent {
		ls.held[l.chain]++
	}
	return top, nil
}

// layer returns what is known of one layer, if its content can be had.
func (ls *Layers) layer(diffID digest.Digest) (layer.Layer, error) {
	l, err := ls.store.Layer(diffID)
	if errors.Is(err, fs.ErrNotExist) {
		return l, fmt.Errorf("layer %s: %w", diffID, ErrLayerDoesNotExist)
	}
	if err != nil {
		return l, err
	}
	if _, held := ls.store.HasBlob(l.Descriptor.Digest); !held && l.Origin == "" {
		return l, fmt.Errorf("layer %s: its blob %s is not held: %w", diffID, l.Descriptor.Digest, ErrLayerDoesNotExist)
	}
	return l, nil
}

// Release implements LayerGetReleaser.
func (ls *Layers) Release(l StoredLayer) ([]LayerMetadata, error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.held[l.ChainID()] == 0 {
		return nil, fmt.Errorf("releasing layer %s: %w", l.ChainID(), ErrLayerNotRetained)
	}
	var free []LayerMetadata
	for ; l != nil; l = l.Parent() {
		if ls.held[l.ChainID()]--; ls.held[l.ChainID()] == 0 {
			delete(ls.held, l.ChainID())
			free = append(free, LayerMetadata{ChainID: l.ChainID(), DiffID: l.DiffID(), Size: l.Size(), DiffSize: l.DiffSize()})
		}
	}
	return free, nil
}

// storedLayer is a layer of Layers.
type storedLayer struct {
	layers *Layers
	chain  ChainID
	layer  layer.Layer
	parent *storedLayer
}

func (l *storedLayer) ChainID() ChainID      { return l.chain }
func (l *storedLayer) DiffID() digest.Digest { return l.layer.DiffID }

// Parent implements StoredLayer.
func (l *storedLayer) Parent() StoredLayer {
	if l.parent == nil {
		return nil // not an interface around a nil pointer
	}
	return l.parent
}

// Size implements StoredLayer.
func (l *storedLayer) Size() int64 {
	size := l.DiffSize()
	for p := l.parent; p != nil; p = p.parent {
		size += p.DiffSize()
	}
	return size
}

// DiffSize implements StoredLayer: of a layer that was never read here, it is the size of its blob.
func (l *storedLayer) DiffSize() int64 {
	return (&Local{store: l.layers.store}).sizeOf(l.layer)
}

// TarStream implements StoredLayer. A layer that is only known to be in a registry is an error: fetch it first.
func (l *storedLayer) TarStream() (io.ReadCloser, error) {
	blob, err := l.layers.store.OpenBlob(l.layer.Descriptor.Digest)
	if err != nil {
		return nil, fmt.Errorf("reading layer %s: %w", l.layer.DiffID, err)
	}
	r, w := io.Pipe()
	go func() {
		defer blob.Close()
		// Recompress checks the DiffID. Its end is the reader's: closing the pipe makes the next write fail.
		_, err := layer.Recompress(context.Background(), blob, l.layer, w, layer.Compression{Type: "uncompressed"})
		w.CloseWithError(err)
	}()
	return r, nil
}
