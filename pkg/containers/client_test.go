package containers_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/containers"
	"github.com/cairn-build/cairn/pkg/containers/core"
)

// broken is a backend in which one call fails: the one named.
type broken struct {
	fails   string
	logs    string
	removed int
	closed  bool
	output  io.Writer
}

var errBroken = errors.New("broken")

func (b *broken) err(call string) error {
	if call == b.fails {
		return errBroken
	}
	return nil
}

func (b *broken) BackendType() core.BackendType { return "broken" }
func (b *broken) Image(name string) core.Image  { return brokenImage{b, name} }
func (b *broken) Create(context.Context, *core.ContainerConfig) (core.ContainerID, error) {
	return "c", b.err("Create")
}
func (b *broken) Start(context.Context, core.ContainerID) error { return b.err("Start") }
func (b *broken) Stop(context.Context, core.ContainerID) error  { return b.err("Stop") }
func (b *broken) Remove(context.Context, core.ContainerID) error {
	b.removed++
	return b.err("Remove")
}
func (b *broken) Wait(context.Context, core.ContainerID) error { return b.err("Wait") }
func (b *broken) Logs(context.Context, core.ContainerID) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(b.logs)), b.err("Logs")
}
func (b *broken) Inspect(_ context.Context, id core.ContainerID) (*core.ContainerInfo, error) {
	return &core.ContainerInfo{ID: id}, b.err("Inspect")
}
func (b *broken) Clean(context.Context, time.Duration, string) error { return b.err("Clean") }
func (b *broken) HealthCheck(context.Context) error                  { return b.err("HealthCheck") }
func (b *broken) Capabilities() core.BackendCapabilities             { return core.BackendCapabilities{} }
func (b *broken) Close() error                                       { b.closed = true; return nil }

type brokenImage struct {
	b    *broken
	name string
}

func (i brokenImage) Pull(context.Context) error { return i.b.err("Pull") }
func (i brokenImage) Build(_ context.Context, d *core.DockerfileBuild) error {
	i.b.output = d.Output
	return i.b.err("Build")
}
func (i brokenImage) Exists(context.Context) bool                { return false }
func (i brokenImage) Remove(context.Context) error               { return nil }
func (i brokenImage) Name() string                               { return i.name }
func (i brokenImage) Digest(context.Context) (string, error)     { return "", nil }
func (i brokenImage) Tags(ctx context.Context) ([]string, error) { return nil, nil }

// TestRunErrors: each call of Run that fails has its sentinel and its cause, no logs come with it, and the container is removed.
func TestRunErrors(t *testing.T) {
	for call, want := range map[string]error{
		"Start": containers.ErrorContainerStart, "Wait": containers.ErrorContainerWait, "Inspect": containers.ErrorContainerInspect,
		"Logs": containers.ErrorContainerLogs, "Remove": errBroken,
	} {
		b := &broken{fails: call}
		c, err := containers.New(containers.WithBackend(b))
		if err != nil {
			t.Fatal(err)
		}
		i, err := c.Image(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		container, err := i.Instantiate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		logs, err := container.Run(t.Context())
		if !errors.Is(err, want) || !errors.Is(err, errBroken) || logs != nil && call != "Remove" || b.removed != 1 {
			t.Errorf("%s fails: %v, logs %v, removed %d times", call, err, logs, b.removed)
		}
	}
}

// TestCombinedErrors: output that is not in Docker's frames is an error of the reader.
func TestCombinedErrors(t *testing.T) {
	c, err := containers.New(containers.WithBackend(&broken{logs: "not in frames at all"}))
	if err != nil {
		t.Fatal(err)
	}
	i, err := c.Image(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	container, err := i.Instantiate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	logs, err := container.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(logs.Combined()); err == nil {
		t.Error("logs without frames are read without an error")
	}
}

// TestVerboseAndClose: Verbose shows builds on the standard output, unless an image has an Output; Close closes the backend.
func TestVerboseAndClose(t *testing.T) {
	b := &broken{}
	for _, tt := range []struct {
		client []containers.Option
		image  []containers.ImageOption
		want   io.Writer
	}{
		{nil, nil, nil},
		{[]containers.Option{containers.Verbose()}, nil, os.Stdout},
		{[]containers.Option{containers.Verbose()}, []containers.ImageOption{containers.Output(io.Discard)}, io.Discard},
	} {
		c, err := containers.New(append(tt.client, containers.WithBackend(b))...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Image(t.Context(), "x", append(tt.image, containers.Build(bytes.NewReader(nil)))...); err != nil || b.output != tt.want {
			t.Errorf("the output is %v, %v; want %v", b.output, err, tt.want)
		}
		if err := c.Close(); err != nil || !b.closed {
			t.Errorf("Close: %v, closed %v", err, b.closed)
		}
	}
	if _, err := containers.New(containers.WithBackend(nil)); !errors.Is(err, containers.ErrBackendNotAvailable) {
		t.Errorf("no backend: %v", err)
	}
}
