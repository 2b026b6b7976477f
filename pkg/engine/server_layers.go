package engine

import (
	"context"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/snapshot"
)

// layerOpener is methodLayerOpen.
func (s *server) layerOpener(ctx context.Context) func([]layer.Layer) (roHandle, error) {
	return func(chain []layer.Layer) (roHandle, error) {
		l, err := s.snapshotter.Open(ctx, chain)
		if err != nil {
			return roHandle{}, err
		}
		return s.holdLayer(l), nil
	}
}

func (s *server) holdLayer(l snapshot.ROLayer) roHandle {
	return roHandle{handle: hold(s, s.layers, l), DiffID: l.DiffID(), Chain: l.Chain()}
}

func (s *server) newWritable(h handle) (rwHandle, error) {
	l, err := held(s, s.layers, h)
	if err != nil {
		return rwHandle{}, err
	}
	rw, err := l.NewRWLayer()
	if err != nil {
		return rwHandle{}, err
	}
	return rwHandle{handle: hold(s, s.writable, rw), Root: rw.Root()}, nil
}

func (s *server) commit(h handle) (roHandle, error) {
	rw, err := held(s, s.writable, h)
	if err != nil {
		return roHandle{}, err
	}
	l, err := rw.Commit()
	if err != nil {
		return roHandle{}, err
	}
	return s.holdLayer(l), nil
}
