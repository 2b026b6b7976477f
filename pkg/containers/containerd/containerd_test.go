package containerd_test

import (
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/pkg/containers"
	_ "github.com/cairn-build/cairn/pkg/containers/containerd"
	"github.com/cairn-build/cairn/pkg/containers/containerstest"
	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/cairn-build/cairn/test/harness"
)

// start is a backend with a containerd of its own.
func start(t *testing.T) core.Backend {
	t.Helper()
	b, err := containers.NewBackend(core.ContainerdConfig{
		SocketPath: harness.StartContainerd(t), Namespace: "cairn-test",
		// It works on every file system, also where the test runs in a container.
		Snapshotter: "native",
		Build:       core.NativeConfig{Root: filepath.Join(t.TempDir(), "store")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// TestConformance runs the suite of backends against a real daemon.
func TestConformance(t *testing.T) {
	image := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	b := start(t)
	containerstest.Run(t, b, image)
	t.Run("Refused", func(t *testing.T) { refused(t, b, image) })
	t.Run("CloseRemovesContainers", func(t *testing.T) {
		if _, err := b.Create(t.Context(), &core.ContainerConfig{Image: image}); err != nil {
			t.Error(err)
		} // Close, at the end of the test, removes it or is an error
	})
}

// refused: what the backend cannot do it says.
func refused(t *testing.T, b core.Backend, image string) {
	for name, c := range map[string]core.ContainerConfig{
		"storage":           {Resources: &core.ResourceLimits{Storage: 1 << 30}},
		"bridge":            {Network: &core.NetworkConfig{Mode: "bridge"}},
		"ports":             {Network: &core.NetworkConfig{PortMappings: []core.PortMapping{{HostPort: 1, ContainerPort: 2}}}},
		"restricted egress": {Network: &core.NetworkConfig{RestrictEgress: true}},
		"named volume":      {Volumes: []core.VolumeMount{{Source: "data", Destination: "/data", IsVolumeName: true}}},
	} {
		c.Image = image
		if _, err := b.Create(t.Context(), &c); !errors.Is(err, core.ErrNotSupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A daemon that is not there is an error that says where it was looked for.
func TestNoDaemon(t *testing.T) {
	for _, c := range []core.ContainerdConfig{{SocketPath: filepath.Join(t.TempDir(), "no.sock")}, {AutoStart: true}, {RootlessMode: core.RootlessModeEnabled}} {
		if _, err := containers.NewBackend(c); !errors.Is(err, containers.ErrBackendNotAvailable) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
