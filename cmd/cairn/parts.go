package main

import (
	"errors"
	"io"

	"github.com/cairn-build/cairn/pkg/build"
	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
)

// openStore opens the store that --root names.
func (in invocation) openStore(c *cli.Context) (*store.Store, error) {
	root, _ := in.stateDir(c)
	return store.Open(root)
}

// registryOptions are what the command line and the environment say of registries.
func (in invocation) registryOptions(c *cli.Context) (registry.Options, error) {
	o := registry.Options{
		AuthFiles: in.authFiles(),
		CAFiles:   c.StringSlice("registry-ca"), InsecureHosts: c.StringSlice("insecure-registry"),
		Mirrors: map[string][]string{}, UserAgent: "cairn/" + version(),
	}
	for _, text := range c.StringSlice("registry-mirror") {
		of, urls, err := registry.ParseMirror(text)
		if err != nil {
			return o, usagef("--registry-mirror %q: %v", text, err).withHint("--registry-mirror docker.io=https://mirror.example")
		}
		o.Mirrors[of] = append(o.Mirrors[of], urls...)
	}
	return o, nil
}

// newRegistry makes the client that the command line and the environment describe.
func (in invocation) newRegistry(c *cli.Context) (*registry.Client, error) {
	o, err := in.registryOptions(c)
	if err != nil {
		return nil, err
	}
	client, err := registry.New(o)
	if err != nil {
		return nil, usagef("%v", err)
	}
	return client, nil
}

// engine is the parts of a build, put together: what `cairn build` and `cairn run` work with, inside the namespaces of enter.
type engine struct {
	store    *store.Store
	registry *registry.Client
	images   *source.Images
	rung     *ladder.Rung
}

// openEngine puts the parts together.
func (in invocation) openEngine(c *cli.Context, i ladder.Isolation) (_ *engine, err error) {
	// What libcontainer writes to its log is meant for those who work on it; what went wrong it also returns.
	logrus.SetOutput(io.Discard)
	e := &engine{}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	if e.registry, err = in.newRegistry(c); err != nil {
		return nil, err
	}
	if e.store, err = in.openStore(c); err != nil {
		return nil, err
	}
	e.images = source.NewImages(source.ImagesOptions{Store: e.store, Registry: e.registry, Pull: c.Bool("pull")})
	if e.rung, err = ladder.Open(ladder.Options{Isolation: i, Store: e.store, Blob: e.images.Blob}); err != nil {
		return nil, err
	}
	return e, nil
}

// parts are the engine as a build sees it.
func (e *engine) parts(sink progress.Sink) build.Parts {
	return build.Parts{Store: e.store, Images: e.images, Registry: e.registry, Snapshotter: e.rung.Snapshotter, Executor: e.rung.Executor, Progress: sink}
}

// close gives everything back, the last opened first.
func (e *engine) close() error {
	var errs []error
	if e.rung != nil {
		errs = append(errs, e.rung.Close())
	}
	if e.store != nil {
		errs = append(errs, e.store.Close())
	}
	if e.registry != nil {
		e.registry.Close()
	}
	return errors.Join(errs...)
}
