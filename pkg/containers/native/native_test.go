package native_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/containerstest"
	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/cairn-build/cairn/pkg/containers/native"
	"github.com/cairn-build/cairn/test/harness"
)

func start(t *testing.T, p harness.Place) *native.Backend {
	t.Helper()
	b, err := native.New(core.NativeConfig{Root: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestConformance(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) { containerstest.Run(t, start(t, p), p.Busybox) })
}

// What the backend cannot do it says.
func TestRefused(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		if err := b.Image(p.Busybox).Pull(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]core.ContainerConfig{
			"memory":            {Resources: &core.ResourceLimits{Memory: 1 << 30}},
			"CPU":               {Resources: &core.ResourceLimits{CPUQuota: 50_000}},
			"processes":         {Resources: &core.ResourceLimits{PIDs: 10}},
			"bridge":            {Network: &core.NetworkConfig{Mode: "bridge"}},
			"ports":             {Network: &core.NetworkConfig{PortMappings: []core.PortMapping{{HostPort: 1, ContainerPort: 2}}}},
			"restricted egress": {Network: &core.NetworkConfig{RestrictEgress: true}},
			"named volume":      {Volumes: []core.VolumeMount{{Source: "data", Destination: "/data", IsVolumeName: true}}},
			"devices":           {Privileges: &core.Privileges{Devices: []string{"/dev/fuse"}}},
		} {
			c.Image = p.Busybox
			if _, err := b.Create(t.Context(), &c); !errors.Is(err, core.ErrNotSupported) {
				t.Errorf("%s: %v", name, err)
			}
		}
		err := b.Image("x").Build(t.Context(), &core.DockerfileBuild{Context: strings.NewReader("FROM scratch"), RestrictEgress: true})
		if !errors.Is(err, core.ErrNotSupported) {
			t.Errorf("building with restricted egress: %v", err)
		}
		if _, err := b.Create(t.Context(), &core.ContainerConfig{Image: "localhost/no/such:image"}); err == nil {
			t.Error("a container of an image that does not exist")
		}
	})
}

// Clean removes what is old and matches, and nothing else.
func TestCleanFilter(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		build := func(name, label string) {
			t.Helper()
			input := &core.DockerfileBuild{Context: strings.NewReader("FROM " + p.Busybox + "\nLABEL kind=" + label + "\nRUN echo " + name + " > /name\n")}
			if err := b.Image(name).Build(t.Context(), input); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Image(p.Busybox).Pull(t.Context()); err != nil {
			t.Fatal(err)
		}
		build("localhost/app/one:1", "app")
		build("localhost/app/two:1", "tool")
		build("localhost/other:1", "app")
		exist := func(want map[string]bool) {
			t.Helper()
			for name, wanted := range want {
				if got := b.Image(name).Exists(t.Context()); got != wanted {
					t.Errorf("%s exists: %v", name, got)
				}
			}
		}
		if err := b.Clean(t.Context(), time.Hour, "localhost/*"); err != nil {
			t.Fatal(err)
		}
		exist(map[string]bool{"localhost/app/one:1": true, "localhost/other:1": true})
		if err := b.CleanFilter(t.Context(), 0, map[string]map[string]bool{"label": {"kind=app": true}, "reference": {"localhost/app/*": true}}); err != nil {
			t.Fatal(err)
		}
		exist(map[string]bool{"localhost/app/one:1": false, "localhost/app/two:1": true, "localhost/other:1": true})
		if err := b.Clean(t.Context(), 0, "localhost/other"); err != nil {
			t.Fatal(err)
		}
		exist(map[string]bool{"localhost/app/two:1": true, "localhost/other:1": false, p.Busybox: true})
		if err := b.CleanFilter(t.Context(), 0, map[string]map[string]bool{"before": {"x": true}}); !errors.Is(err, core.ErrNotSupported) {
			t.Errorf("an unknown filter: %v", err)
		}
	})
}
