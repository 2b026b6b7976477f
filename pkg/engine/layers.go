package engine

import (
	"context"
	"fmt"
	"path/filepath"
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
	var h roHandle
	if err := e.work.Call(ctx, worker.Call{Method: methodLayerOpen, Params: chain, Result: &h}); err != nil {
		return nil, err
	}
	return e.roLayer(h), nil
}

func (e *Engine) roLayer(h roHandle) *roLayer { return &roLayer{e: e, h: h} }

// released is the part of a layer that may be released once, and may be released again.
type released struct {
	mu   sync.Mutex
	done bool
}

func (r *released) release(call func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return nil
	}
	err := call()
	r.done = err == nil
	return err
}

// roLayer implements snapshot.ROLayer for a layer that the worker holds.
type roLayer struct {
	e *Engine
	h roHandle
	released
}

var _ snapshot.ROLayer = (*roLayer)(nil)

func (l *roLayer) DiffID() digest.Digest             { return l.h.DiffID }
func (l *roLayer) ContentStoreDigest() digest.Digest { return "" }
func (l *roLayer) Chain() []layer.Layer              { return l.h.Chain }

func (l *roLayer) Release() error {
	return l.release(func() error { return l.e.call(methodReleaseRO, l.h.handle, nil) })
}

func (l *roLayer) NewRWLayer() (snapshot.RWLayer, error) {
	var h rwHandle
	if err := l.e.call(methodLayerRW, l.h.handle, &h); err != nil {
		return nil, err
	}
	return &rwLayer{e: l.e, h: h}, nil
}

// rwLayer implements snapshot.RWLayer for a layer that the worker has mounted.
type rwLayer struct {
	e *Engine
	h rwHandle
	released
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
	return l.release(func() error { return l.e.call(methodReleaseRW, l.h.handle, nil) })
}

// call is for what has no context in its contract: it ends with the worker.
func (e *Engine) call(method string, params, result any) error {
	if err := e.work.Call(context.Background(), worker.Call{Method: method, Params: params, Result: result}); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}
