package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/worker"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/opencontainers/go-digest"
)

// Open returns the root filesystem of a chain of layers, bottom first, unpacking what is not unpacked yet. The layer and what is made of
// it live in the worker; the Root of a writable layer is a path of this process.
func (e *Engine) Open(ctx context.Context, chain []layer.Layer) (snapshot.ROLayer, error) {
	l := e.Layer(chain)
	if err := l.(*roLayer).open(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// Layer is Open without the work: the chain is unpacked when a writable layer is put on top.
func (e *Engine) Layer(chain []layer.Layer) snapshot.ROLayer {
	return &roLayer{e: e, chain: slices.Clone(chain)}
}

// roLayer returns a layer that the worker has handed out.
func (e *Engine) roLayer(h roHandle) *roLayer { return &roLayer{e: e, chain: h.Chain, h: &h.handle} }

// emptyTar is the digest of the empty tar, of which scratch is said to consist.
var emptyTar = digest.FromBytes(make([]byte, 1024))

// roLayer implements snapshot.ROLayer for a layer in the worker.
type roLayer struct {
	e     *Engine
	chain []layer.Layer

	mu       sync.Mutex
	h        *handle // nil before the worker knows of it
	released bool
}

var _ snapshot.ROLayer = (*roLayer)(nil)

func (l *roLayer) DiffID() digest.Digest {
	if len(l.chain) == 0 {
		return emptyTar
	}
	return l.chain[len(l.chain)-1].DiffID
}

func (l *roLayer) ContentStoreDigest() digest.Digest { return "" }
func (l *roLayer) Chain() []layer.Layer              { return l.chain }

// open has the worker hold the layer.
func (l *roLayer) open(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return errors.New("opening a layer: it is released")
	}
	if l.h != nil {
		return nil
	}
	var h roHandle
	if err := l.e.work.Call(ctx, worker.Call{Method: methodLayerOpen, Params: l.chain, Result: &h}); err != nil {
		return err
	}
	l.h = &h.handle
	return nil
}

func (l *roLayer) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return nil
	}
	if l.h != nil {
		if err := l.e.call(methodReleaseRO, *l.h, nil); err != nil {
			return err
		}
	}
	l.released = true
	return nil
}

func (l *roLayer) NewRWLayer() (snapshot.RWLayer, error) {
	if err := l.open(context.Background()); err != nil {
		return nil, err
	}
	var h rwHandle
	if err := l.e.call(methodLayerRW, *l.h, &h); err != nil {
		return nil, err
	}
	return &rwLayer{e: l.e, h: h}, nil
}

// rwLayer implements snapshot.RWLayer for a layer that the worker has mounted.
type rwLayer struct {
	e *Engine
	h rwHandle

	mu       sync.Mutex
	released bool
}

var _ snapshot.RWLayer = (*rwLayer)(nil)

// Root leads into the worker's mount namespace by way of its process.
func (l *rwLayer) Root() string {
	return filepath.Join("/proc", strconv.Itoa(l.e.WorkerPID()), "root", l.h.Root)
}

func (l *rwLayer) Commit() (snapshot.ROLayer, error) {
	var h roHandle
	if err := l.e.call(methodCommit, l.h.handle, &h); err != nil {
		return nil, err
	}
	return l.e.roLayer(h), nil
}

func (l *rwLayer) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return nil
	}
	err := l.e.call(methodReleaseRW, l.h.handle, nil)
	l.released = err == nil
	return err
}

// call is for what has no context in its contract: it ends with the worker.
func (e *Engine) call(method string, params, result any) error {
	if err := e.work.Call(context.Background(), worker.Call{Method: method, Params: params, Result: result}); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}
