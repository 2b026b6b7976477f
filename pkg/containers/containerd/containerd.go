// Package containerd is the backend of package containers for a containerd, through its client. Importing it makes the backend known to
// containers.NewBackend:
//
//	backend, err := containers.NewBackend(core.ContainerdConfig{})
//	client, err := containers.New(containers.WithBackend(backend))
//
// The program must run where the daemon does, and as its user: root for the usual one. containerd keeps no output of containers, so this
// program does, in a temporary directory, for the containers it has made; they end with Close. Networks are the machine's own and none at all: others take
// plugins that containerd does not come with. Images are built by cairn itself (package native) and handed over.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/cairn-build/cairn/pkg/containers/native"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

var _ = core.RegisterBackend(core.BackendTypeContainerd, func(c core.BackendConfig) (core.Backend, error) {
	switch c := c.(type) {
	case core.ContainerdConfig:
		return New(c)
	case *core.ContainerdConfig:
		return New(*c)
	}
	return nil, fmt.Errorf("%w: a %T is not a core.ContainerdConfig", core.ErrBackendNotAvailable, c)
})

// Where a daemon of root listens, which namespace a client gets that names none, and how long it may take to answer the first time.
const (
	defaultSocket    = "/run/containerd/containerd.sock"
	defaultNamespace = "default"
	connectTime      = 10 * time.Second
)

// Backend runs containers with a containerd.
type Backend struct {
	client *client.Client
	config core.ContainerdConfig
	dir    string // FIFOs and logs

	mu    sync.Mutex
	made  map[core.ContainerID]*made
	build *native.Backend // made when it is needed first
}

var _ core.Backend = (*Backend)(nil)

// New connects to the daemon. It starts none: AutoStart and RootlessModeEnabled without a SocketPath are refused.
func New(c core.ContainerdConfig) (*Backend, error) {
	if c.SocketPath == "" && (c.AutoStart || c.RootlessMode == core.RootlessModeEnabled) {
		return nil, hint.With(fmt.Errorf("%w: no containerd is started here", core.ErrBackendNotAvailable), "start it and give its SocketPath")
	}
	if c.SocketPath == "" {
		c.SocketPath = defaultSocket
	}
	if c.Namespace == "" {
		c.Namespace = defaultNamespace
	}
	cl, err := client.New(c.SocketPath, client.WithDefaultNamespace(c.Namespace), client.WithTimeout(connectTime))
	if err == nil {
		err = answers(cl)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reaching containerd at %s: %w", core.ErrBackendNotAvailable, c.SocketPath, err)
	}
	dir, err := os.MkdirTemp("", "cairn-containerd-")
	if err != nil {
		return nil, errors.Join(err, cl.Close())
	}
	return &Backend{client: cl, config: c, dir: dir, made: map[core.ContainerID]*made{}}, nil
}

// answers reports whether a daemon answers; a client that is not served is closed.
func answers(cl *client.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), connectTime)
	defer cancel()
	if _, err := cl.Version(ctx); err != nil {
		return errors.Join(err, cl.Close())
	}
	return nil
}

// Close removes the containers that this backend has made, and drops connections.
func (b *Backend) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b.mu.Lock()
	var ids []core.ContainerID
	for id := range b.made {
		ids = append(ids, id)
	}
	build := b.build
	b.build = nil
	b.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, b.Remove(ctx, id))
	}
	if build != nil {
		errs = append(errs, build.Close())
	}
	return errors.Join(append(errs, b.client.Close(), os.RemoveAll(b.dir))...)
}

// BackendType implements core.Backend.
func (b *Backend) BackendType() core.BackendType { return core.BackendTypeContainerd }

// Image implements core.Backend.
func (b *Backend) Image(name string) core.Image { return &image{b, name} }

// HealthCheck implements core.Backend.
func (b *Backend) HealthCheck(ctx context.Context) error {
	ok, err := b.client.IsServing(ctx)
	if err == nil && !ok {
		err = errors.New("containerd says that it does not serve")
	}
	return err
}

// Capabilities implements core.Backend. Limits are the daemon's to enforce.
func (b *Backend) Capabilities() core.BackendCapabilities {
	return core.BackendCapabilities{
		SupportsMemory: true, SupportsCPU: true, SupportsPIDs: true, SupportsMemorySwap: true,
		SupportsBuild: true, SupportsOCI: true, SupportsNetworking: true, SupportsVolumes: true,
	}
}

// in is ctx for calls in the backend's namespace.
func (b *Backend) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, b.config.Namespace)
}

// builder is what images are built with.
func (b *Backend) builder() (*native.Backend, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.build == nil {
		n, err := native.New(b.config.Build)
		if err != nil {
			return nil, err
		}
		b.build = n
	}
	return b.build, nil
}
