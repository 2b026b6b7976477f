package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/cairn-build/cairn/pkg/engine"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// Options say where images are kept and how registries are reached; the zero value is what the command uses without flags.
type Options = engine.Options

// New makes a Backend over the images that `cairn build` and its sisters see. It starts a worker process, which ends with the program, or
// when the Backend, which is an io.Closer, is closed. Where no such process can work, the error says why.
func New(o Options) (Backend, error) {
	e, err := engine.Start(context.Background(), o)
	if err != nil {
		return nil, err
	}
	images, err := e.Images().Store()
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return &local{engine: e, images: images, containers: map[string]*made{}}, nil
}

// local is the Backend over an engine.
type local struct {
	engine *engine.Engine
	images image.Store

	mu         sync.Mutex
	containers map[string]*made
}

// made is what the backend knows of a container that it has made, besides what the engine knows.
type made struct {
	// image is the ID of what it was made from, "" for scratch; chain its layers.
	image   image.ID
	chain   []layer.Layer
	workdir string
	removed chan struct{}
}

var (
	_ OlderBackend = (*local)(nil)
	_ io.Closer    = (*local)(nil)
)

// Close ends the worker with all containers.
func (b *local) Close() error { return b.engine.Close() }

// notFound marks an error so that containerd's errdefs, and the interpreters that use them, know its kind.
type notFound struct{ error }

// NotFound is how errdefs tell the kind of an error.
func (notFound) NotFound() {}

func (e notFound) Unwrap() error { return e.error }

// kinded gives an error about something that is not there the mark for that.
func kinded(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return notFound{err}
	}
	return err
}

// CreateImage implements Backend.
func (b *local) CreateImage(ctx context.Context, config []byte, parent string, _ digest.Digest) (Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("creating an image: %w", context.Cause(ctx))
	}
	id, err := b.create(config, image.ID(parent))
	if err != nil {
		return nil, err
	}
	img, err := b.images.Get(id)
	if err != nil {
		return nil, fmt.Errorf("creating image %s: %w", id, err)
	}
	return img, nil
}

// create keeps a config as that of an image built here.
func (b *local) create(config []byte, parent image.ID) (image.ID, error) {
	id, err := b.images.Create(config)
	if err != nil {
		return "", fmt.Errorf("creating an image: %w", err)
	}
	if parent != "" {
		if err := b.images.SetParent(id, parent); err != nil {
			return "", fmt.Errorf("creating image %s: its parent is %s: %w", id, parent, err)
		}
	}
	if err := b.images.SetBuiltLocally(id); err != nil {
		return "", fmt.Errorf("creating image %s: %w", id, err)
	}
	return id, nil
}

// CommitBuildStep implements Backend.
func (b *local) CommitBuildStep(ctx context.Context, c CommitConfig) (image.ID, error) {
	m, err := b.made(c.ContainerID)
	if err != nil {
		return "", err
	}
	ro, err := b.engine.CommitContainer(ctx, c.ContainerID)
	if err != nil {
		return "", kinded(fmt.Errorf("committing container %s: %w", c.ContainerID, err))
	}
	defer ro.Release()
	parent := &image.Image{RootFS: image.NewRootFS()}
	if m.image != "" {
		if parent, err = b.images.Get(m.image); err != nil {
			return "", fmt.Errorf("committing container %s: %w", c.ContainerID, err)
		}
	}
	child := image.ChildConfig{
		ContainerID: c.ContainerID, Author: c.Author, Comment: c.Comment, ContainerConfig: c.ContainerConfig, Config: c.Config,
	}
	if len(ro.Chain()) > len(m.chain) { // a container that never ran has no layer
		child.DiffID = ro.DiffID()
	}
	config, err := image.NewChildImage(parent, child, parent.OperatingSystem()).MarshalJSON()
	if err != nil {
		return "", fmt.Errorf("committing container %s: %w", c.ContainerID, err)
	}
	return b.create(config, m.image)
}

// Commit implements OlderBackend.
func (b *local) Commit(containerID string, c *CommitConfig) (string, error) {
	if c == nil {
		c = &CommitConfig{}
	}
	config := *c
	config.ContainerID = containerID
	id, err := b.CommitBuildStep(context.Background(), config)
	return id.String(), err
}

// ContainerCreateWorkdir implements Backend.
func (b *local) ContainerCreateWorkdir(containerID string) error {
	m, err := b.made(containerID)
	if err != nil || m.workdir == "" {
		return err
	}
	return kinded(b.engine.MakeDir(context.Background(), containerID, m.workdir))
}

// made returns what is known of a container.
func (b *local) made(id string) (*made, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.containers[id]
	if !ok {
		return nil, notFound{fmt.Errorf("no such container: %s: %w", id, fs.ErrNotExist)}
	}
	return m, nil
}
