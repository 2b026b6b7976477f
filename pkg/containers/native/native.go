// Package native is the backend of package containers that needs nothing: images are in cairn's store, and containers run in a worker
// process of the importing program (package engine), as an ordinary user, without a daemon. They end with the program.
//
// What it cannot do it refuses: limits of memory, processors or processes (an ordinary user has no control group), networks other than the
// machine's own and none at all, named volumes, and egress that is restricted to the public internet.
package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/cairn-build/cairn/pkg/engine"
	"github.com/moby/sys/signal"
)

var _ = core.RegisterBackend(core.BackendTypeNative, func(c core.BackendConfig) (core.Backend, error) {
	switch c := c.(type) {
	case core.NativeConfig:
		return New(c)
	case *core.NativeConfig:
		return New(*c)
	}
	return nil, fmt.Errorf("%w: a %T is not a core.NativeConfig", core.ErrBackendNotAvailable, c)
})

// Backend is cairn's own backend.
type Backend struct {
	engine *engine.Engine

	mu   sync.Mutex
	made map[core.ContainerID]created
}

// created is what the backend remembers of a container besides what the engine knows.
type created struct {
	image      string
	resources  *core.ResourceLimits
	stopSignal int
	stopGrace  time.Duration
}

var (
	_ core.Backend       = (*Backend)(nil)
	_ core.FilterCleaner = (*Backend)(nil)
)

// New starts a backend. Close ends it, and so does the end of the program.
func New(c core.NativeConfig) (*Backend, error) {
	e, err := engine.Start(context.Background(), engine.Options{Root: c.Root, Registries: engine.Registries{
		AuthFiles: c.AuthFiles, CAFiles: c.CAFiles, InsecureHosts: c.InsecureHosts, Mirrors: c.Mirrors,
	}})
	if err != nil {
		return nil, err
	}
	return &Backend{engine: e, made: map[core.ContainerID]created{}}, nil
}

// Close ends the worker, and with it all containers.
func (b *Backend) Close() error { return b.engine.Close() }

// BackendType implements core.Backend.
func (b *Backend) BackendType() core.BackendType { return core.BackendTypeNative }

// Image implements core.Backend.
func (b *Backend) Image(name string) core.Image { return &image{b: b, name: name} }

// HealthCheck implements core.Backend.
func (b *Backend) HealthCheck(ctx context.Context) error { return b.engine.Ping(ctx) }

// Capabilities implements core.Backend.
func (b *Backend) Capabilities() core.BackendCapabilities {
	return core.BackendCapabilities{SupportsBuild: true, SupportsOCI: true, SupportsNetworking: true, SupportsVolumes: true}
}

// Create implements core.Backend.
func (b *Backend) Create(ctx context.Context, config *core.ContainerConfig) (core.ContainerID, error) {
	if config == nil || config.Image == "" {
		return "", errors.New("creating a container: no image given")
	}
	found, err := b.find(config.Image)
	if err != nil {
		return "", fmt.Errorf("creating a container: %w", err)
	}
	spec, err := containerSpec(config, found)
	if err != nil {
		return "", fmt.Errorf("creating a container of %s: %w", config.Image, err)
	}
	made := created{image: config.Image, resources: config.Resources, stopSignal: int(syscall.SIGTERM), stopGrace: stopGrace}
	if name := found.config.Config.StopSignal; name != "" {
		sig, err := signal.ParseSignal(name)
		if err != nil {
			return "", fmt.Errorf("creating a container of %s: %w", config.Image, err)
		}
		made.stopSignal = int(sig)
	}
	id, err := b.engine.CreateContainer(ctx, spec)
	if err != nil {
		return "", fmt.Errorf("creating a container of %s: %w", config.Image, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.made[core.ContainerID(id)] = made
	return core.ContainerID(id), nil
}

// stopGrace is how long Stop waits before it kills, as `docker stop` does.
const stopGrace = 10 * time.Second

// Start implements core.Backend.
func (b *Backend) Start(ctx context.Context, id core.ContainerID) error {
	return b.engine.StartContainer(ctx, string(id))
}

// Stop implements core.Backend.
func (b *Backend) Stop(ctx context.Context, id core.ContainerID) error {
	b.mu.Lock()
	made := b.made[id]
	b.mu.Unlock()
	return b.engine.StopContainer(ctx, string(id), made.stopSignal, made.stopGrace)
}

// Remove implements core.Backend.
func (b *Backend) Remove(ctx context.Context, id core.ContainerID) error {
	if err := b.engine.RemoveContainer(ctx, string(id), true); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.made, id)
	return nil
}

// Wait implements core.Backend.
func (b *Backend) Wait(ctx context.Context, id core.ContainerID) error {
	_, err := b.engine.WaitContainer(ctx, string(id))
	return err
}

// Logs implements core.Backend.
func (b *Backend) Logs(ctx context.Context, id core.ContainerID) (io.ReadCloser, error) {
	return b.engine.ContainerLogs(ctx, string(id), false)
}

// Inspect implements core.Backend.
func (b *Backend) Inspect(ctx context.Context, id core.ContainerID) (*core.ContainerInfo, error) {
	st, err := b.engine.InspectContainer(ctx, string(id))
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	made := b.made[id]
	b.mu.Unlock()
	return &core.ContainerInfo{
		ID: id, Status: string(st.Status), ExitCode: st.ExitCode, StartedAt: st.StartedAt, Image: made.image, Resources: made.resources,
	}, nil
}
