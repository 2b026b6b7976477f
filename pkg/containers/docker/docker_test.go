package docker_test

import (
	"testing"

	"github.com/cairn-build/cairn/pkg/containers"
	"github.com/cairn-build/cairn/pkg/containers/containerstest"
	"github.com/cairn-build/cairn/pkg/containers/core"
	_ "github.com/cairn-build/cairn/pkg/containers/docker"
	"github.com/cairn-build/cairn/test/harness"
)

// TestConformance runs the suite of backends against a real daemon.
func TestConformance(t *testing.T) {
	image := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	backend, err := containers.NewBackend(core.DockerConfig{Host: harness.StartDocker(t).Host})
	if err != nil {
		t.Fatal(err)
	}
	containerstest.Run(t, backend, image)
}
