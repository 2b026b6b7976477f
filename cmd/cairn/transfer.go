package main

import (
	"context"
	"errors"

	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/urfave/cli/v2"
)

// transfer is what push and pull work with. They unpack nothing, so they need no namespaces.
type transfer struct {
	store    *store.Store
	registry *registry.Client
	images   *source.Images
	progress progress.Renderer
}

// transfer puts the parts together, does the work and gives the parts back.
func (in invocation) transfer(c *cli.Context, work func(context.Context, *transfer) error) (err error) {
	mode, err := in.progressMode(c)
	if err != nil {
		return err
	}
	t := &transfer{}
	if t.registry, err = in.newRegistry(c); err != nil {
		return err
	}
	defer t.registry.Close()
	if t.store, err = in.openStore(c); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.store.Close()) }()
	if t.progress, err = in.showProgress(mode); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.progress.Close()) }()
	t.images = source.NewImages(source.ImagesOptions{Store: t.store, Registry: t.registry, Pull: true})
	return work(progress.With(c.Context, t.progress), t)
}
