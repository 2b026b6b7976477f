package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/pkg/worker"
	"github.com/cairn-build/cairn/snapshot"
)

var _ = worker.Register(serviceName, func() (worker.Service, error) { return newServer(), nil })

// server is the worker's side of an engine.
type server struct {
	opts        Options
	store       *store.Store
	registry    *registry.Client
	rung        *ladder.Rung
	snapshotter snapshot.Snapshotter
	executor    executor.Executor

	mu         sync.Mutex
	layers     map[string]snapshot.ROLayer
	writable   map[string]snapshot.RWLayer
	containers map[string]*container
}

func newServer() *server {
	return &server{layers: map[string]snapshot.ROLayer{}, writable: map[string]snapshot.RWLayer{}, containers: map[string]*container{}}
}

// Handle implements worker.Service.
func (s *server) Handle(ctx context.Context, r *worker.Request) (any, error) {
	if r.Method != methodOpen && s.executor == nil {
		return nil, worker.WithKind(worker.Conflict, fmt.Errorf("%s: the engine is not open", r.Method))
	}
	switch r.Method {
	case methodOpen:
		return nil, decoded(r, s.open)
	case methodPing:
		return nil, nil
	case methodBuild:
		return s.build(ctx, r)
	case methodLayerOpen, methodLayerRW, methodCommit, methodReleaseRO, methodReleaseRW:
		return s.handleLayer(ctx, r)
	}
	return s.handleContainer(ctx, r)
}

// decoded reads the parameters of a request for a function of them.
func decoded[T any](r *worker.Request, f func(T) error) error {
	var params T
	if err := r.Decode(&params); err != nil {
		return err
	}
	return f(params)
}

// answered is decoded for a function with a result.
func answered[T, R any](r *worker.Request, f func(T) (R, error)) (any, error) {
	var result R
	err := decoded(r, func(params T) (err error) {
		result, err = f(params)
		return err
	})
	return result, err
}

// open puts the parts together. It is the first call, and nobody calls anything meanwhile.
func (s *server) open(o Options) (err error) {
	s.opts = o
	if s.registry, err = registry.New(o.Registries.options(nil)); err != nil {
		return err
	}
	if s.store, err = store.Open(o.Root); err != nil {
		return err
	}
	images := source.NewImages(source.ImagesOptions{Store: s.store, Registry: s.registry})
	if s.rung, err = ladder.Open(ladder.Options{Isolation: ladder.Auto, Store: s.store, Blob: images.Blob}); err != nil {
		return err
	}
	s.snapshotter, s.executor = s.rung.Snapshotter, s.rung.Executor
	return nil
}

// Close implements worker.Service: containers first, then what they stood on.
func (s *server) Close() error {
	var errs []error
	for _, c := range s.containers {
		errs = append(errs, c.remove(true))
	}
	for _, l := range s.writable {
		errs = append(errs, l.Release())
	}
	for _, l := range s.layers {
		errs = append(errs, l.Release())
	}
	if s.rung != nil {
		errs = append(errs, s.rung.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.registry != nil {
		s.registry.Close()
	}
	return errors.Join(errs...)
}

// newID returns 64 hexadecimal digits, as the ID of a Docker container.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}

// handleLayer carries out the requests about layers.
func (s *server) handleLayer(ctx context.Context, r *worker.Request) (any, error) {
	switch r.Method {
	case methodLayerOpen:
		return answered(r, s.layerOpener(ctx))
	case methodLayerRW:
		return answered(r, s.newWritable)
	case methodCommit:
		return answered(r, s.commit)
	case methodReleaseRO:
		return nil, decoded(r, func(h handle) error { return release(s, s.layers, h) })
	}
	return nil, decoded(r, func(h handle) error { return release(s, s.writable, h) })
}

// hold keeps something under a new handle.
func hold[T any](s *server, in map[string]T, v T) handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := handle{newID()}
	in[h.Handle] = v
	return h
}

// held returns what a handle stands for.
func held[T any](s *server, in map[string]T, h handle) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := in[h.Handle]
	if !ok {
		return v, worker.WithKind(worker.NotFound, errors.New("the layer is released"))
	}
	return v, nil
}

// release gives something up. What is not there has been given up before.
func release[T interface{ Release() error }](s *server, in map[string]T, h handle) error {
	s.mu.Lock()
	v, ok := in[h.Handle]
	delete(in, h.Handle)
	s.mu.Unlock()
	if !ok {
		return nil
	}
	return v.Release()
}
