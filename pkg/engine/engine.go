// Package engine is cairn's parts put together for a program that imports them: a store of images, and a worker process in which
// layers are mounted, containers run and Dockerfiles built. pkg/builder and pkg/containers are what programs speak to; both stand on an Engine.
//
//	program ─ Engine ─┬─ store, registries: in this process, nothing of theirs needs a privilege
//	                  └─ worker (package worker): snapshotter, executor, whole builds
//
// Importing is enough: no daemon, no set-up, no call in main, and nothing to build with but Go. On kernels older than Linux 5.12 the worker needs
// libcontainer, which a program has that is built with cgo, the build tag seccomp and libseccomp's headers; elsewhere the tag changes nothing.
package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/pkg/worker"
	"github.com/google/go-containerregistry/pkg/authn"
)

// serviceName is the worker's Service.
const serviceName = "engine"

// Options say where an engine keeps its images and how it reaches registries. The zero value is what `cairn build` uses without flags.
type Options struct {
	// Root is the directory of the store. The default is the command's: $XDG_DATA_HOME/cairn, or $HOME/.local/share/cairn.
	Root string
	// Registries say how registries are reached.
	Registries Registries
}

// Registries say how registries are reached; see registry.Options for each.
type Registries struct {
	// AuthFiles hold credentials. The default are the files of Docker and of containers' tools.
	AuthFiles []string
	// Mirrors, CAFiles, InsecureHosts and AllowHosts are those of registry.Options.
	Mirrors       map[string][]string
	CAFiles       []string
	InsecureHosts []string
	AllowHosts    []string
	// UserAgent is sent with every request; the default is "cairn".
	UserAgent string
}

func (r Registries) options(first authn.Keychain) registry.Options {
	return registry.Options{
		AuthFiles: r.AuthFiles, Mirrors: r.Mirrors, CAFiles: r.CAFiles, InsecureHosts: r.InsecureHosts, AllowHosts: r.AllowHosts,
		UserAgent: r.UserAgent, Keychain: first,
	}
}

// Engine is an open engine. It is safe for concurrent use. Engines do not know of each other, also over the same store.
type Engine struct {
	opts  Options
	store *store.Store
	local *image.Local
	work  *worker.Worker
}

// Start opens the store and starts the worker. ctx bounds the start only; Close ends what was started, and so does the end of the program.
func Start(ctx context.Context, o Options) (_ *Engine, err error) {
	if o, err = withDefaults(o); err != nil {
		return nil, err
	}
	e := &Engine{opts: o}
	if e.store, err = store.Open(o.Root); err != nil {
		return nil, err
	}
	e.local = image.NewLocal(e.store)
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if e.work, err = worker.Start(ctx, serviceName); err != nil {
		return nil, err
	}
	return e, e.work.Call(ctx, worker.Call{Method: methodOpen, Params: o})
}

func withDefaults(o Options) (Options, error) {
	var err error
	if o.Root == "" {
		if o.Root, err = defaultRoot(); err != nil {
			return o, err
		}
	}
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return o, fmt.Errorf("opening store: %w", err)
	}
	if o.Registries.AuthFiles == nil {
		o.Registries.AuthFiles = defaultAuthFiles()
	}
	return o, nil
}

// Close ends the worker, with the containers that still run, and gives the store back. It is idempotent.
func (e *Engine) Close() error {
	var err error
	if e.work != nil {
		err = e.work.Close()
	}
	return errors.Join(err, e.store.Close())
}

// Root is the directory of the store.
func (e *Engine) Root() string { return e.opts.Root }

// Store is the engine's store.
func (e *Engine) Store() *store.Store { return e.store }

// Images are the images of the store by name.
func (e *Engine) Images() *image.Local { return e.local }

// Client returns a client of registries that asks first for credentials before the files of Options; nil asks nobody. It is the caller's to close.
func (e *Engine) Client(first authn.Keychain) (*registry.Client, error) {
	return registry.New(e.opts.Registries.options(first))
}

// Remote returns the images that client and the store reach. What a name means is asked once by each such value. pull asks the registry also
// for names that the store has.
func (e *Engine) Remote(client *registry.Client, pull bool) *source.Images {
	return source.NewImages(source.ImagesOptions{Store: e.store, Registry: client, Pull: pull})
}

// Ping reports whether the worker answers.
func (e *Engine) Ping(ctx context.Context) error {
	return e.work.Call(ctx, worker.Call{Method: methodPing})
}

// WorkerPID is the worker's process: what it has mounted lies below /proc/PID/root.
func (e *Engine) WorkerPID() int { return e.work.PID() }
