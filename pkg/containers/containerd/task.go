package containerd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
)

// stopGrace is how long Stop waits before it kills, as `docker stop` does.
const stopGrace = 10 * time.Second

// made is a container of this backend.
type made struct {
	container client.Container
	image     string
	resources *core.ResourceLimits
	log       *log

	mu      sync.Mutex
	task    client.Task // nil before it is started
	started time.Time
	// ended is closed when the process has ended and all its output is in log; code and err are set before.
	ended chan struct{}
	code  int
	err   error
}

// find returns a container of this backend.
func (b *Backend) find(id core.ContainerID) (*made, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.made[id]
	if !ok {
		return nil, fmt.Errorf("container %s: %w", id, fs.ErrNotExist)
	}
	return m, nil
}

// Create implements core.Backend.
func (b *Backend) Create(ctx context.Context, c *core.ContainerConfig) (_ core.ContainerID, err error) {
	if c == nil || c.Image == "" {
		return "", errors.New("creating a container: no image given")
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("creating a container of %s: %w", c.Image, err)
		}
	}()
	ctx = b.in(ctx)
	img, err := b.image(ctx, c.Image)
	if err != nil {
		return "", err
	}
	spec, err := specOptions(c, img)
	if err != nil {
		return "", err
	}
	id := newID()
	opts := []client.NewContainerOpts{
		client.WithImage(img), client.WithImageStopSignal(img, "SIGTERM"), client.WithSnapshotter(b.config.Snapshotter), client.WithNewSnapshot(id, img),
		client.WithNewSpec(spec...),
	}
	if b.config.Runtime != "" {
		opts = append(opts, client.WithRuntime(b.config.Runtime, nil))
	}
	m := &made{image: c.Image, resources: c.Resources}
	if m.container, err = b.client.NewContainer(ctx, id, opts...); err != nil {
		// The snapshot is made before what comes after it can fail.
		_ = b.client.SnapshotService(b.config.Snapshotter).Remove(context.WithoutCancel(ctx), id)
		return "", err
	}
	if m.log, err = newLog(filepath.Join(b.dir, id+".log")); err != nil {
		return "", errors.Join(err, m.container.Delete(context.WithoutCancel(ctx), client.WithSnapshotCleanup))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.made[core.ContainerID(id)] = m
	return core.ContainerID(id), nil
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Start implements core.Backend.
func (b *Backend) Start(ctx context.Context, id core.ContainerID) error {
	m, err := b.find(id)
	if err != nil {
		return err
	}
	ctx = b.in(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.task != nil {
		return fmt.Errorf("starting container %s: it was started already", id)
	}
	task, err := m.container.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, m.log.stream(stdout), m.log.stream(stderr)), cio.WithFIFODir(b.dir)))
	if err != nil {
		return fmt.Errorf("starting container %s: %w", id, err)
	}
	// The task outlives the call.
	always := b.in(context.WithoutCancel(ctx))
	exit, err := task.Wait(always)
	if err == nil {
		err = task.Start(ctx)
	}
	if err != nil {
		_, derr := task.Delete(always, client.WithProcessKill)
		return fmt.Errorf("starting container %s: %w", id, errors.Join(err, derr))
	}
	m.task, m.started, m.ended = task, time.Now(), make(chan struct{})
	go m.follow(exit)
	return nil
}

// follow waits for the end of the process and of its output.
func (m *made) follow(exit <-chan client.ExitStatus) {
	status := <-exit
	m.task.IO().Wait()
	code, _, err := status.Result()
	m.code, m.err = int(code), err
	close(m.ended)
}

// state returns the task, if there is one, and the channel that is closed at its end.
func (m *made) state() (client.Task, chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.task, m.ended
}

// Stop implements core.Backend.
func (b *Backend) Stop(ctx context.Context, id core.ContainerID) error {
	m, err := b.find(id)
	if err != nil {
		return err
	}
	ctx = b.in(ctx)
	task, ended := m.state()
	if task == nil {
		return nil
	}
	sig, err := client.GetStopSignal(ctx, m.container, syscall.SIGTERM)
	if err != nil {
		return fmt.Errorf("stopping container %s: %w", id, err)
	}
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	for _, sig := range []syscall.Signal{sig, syscall.SIGKILL} {
		select {
		case <-ended:
			return nil
		default:
		}
		if err := task.Kill(ctx, sig); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("stopping container %s: %w", id, err)
		}
		if sig == syscall.SIGKILL {
			break
		}
		select {
		case <-ended:
			return nil
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return b.Wait(ctx, id)
}

// Remove implements core.Backend.
func (b *Backend) Remove(ctx context.Context, id core.ContainerID) error {
	m, err := b.find(id)
	if err != nil {
		return err
	}
	ctx = b.in(ctx)
	if task, _ := m.state(); task != nil {
		if _, err := task.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("removing container %s: %w", id, err)
		}
	}
	if err := m.container.Delete(ctx, client.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("removing container %s: %w", id, err)
	}
	b.mu.Lock()
	delete(b.made, id)
	b.mu.Unlock()
	return m.log.remove()
}

// Wait implements core.Backend.
func (b *Backend) Wait(ctx context.Context, id core.ContainerID) error {
	m, err := b.find(id)
	if err != nil {
		return err
	}
	_, ended := m.state()
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return m.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Logs implements core.Backend.
func (b *Backend) Logs(_ context.Context, id core.ContainerID) (io.ReadCloser, error) {
	m, err := b.find(id)
	if err != nil {
		return nil, err
	}
	return m.log.open()
}

// Inspect implements core.Backend.
func (b *Backend) Inspect(_ context.Context, id core.ContainerID) (*core.ContainerInfo, error) {
	m, err := b.find(id)
	if err != nil {
		return nil, err
	}
	info := &core.ContainerInfo{ID: id, Status: "created", Image: m.image, Resources: m.resources}
	task, ended := m.state()
	if task == nil {
		return info, nil
	}
	info.Status, info.StartedAt = "running", m.started
	select {
	case <-ended:
		info.Status, info.ExitCode = "exited", m.code
	default:
	}
	return info, m.err
}
