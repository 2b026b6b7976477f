package docker

import (
	"fmt"
	"os"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/docker/cli/cli/config"
	dockercontext "github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
	"github.com/moby/moby/client"
)

// endpoint says how the daemon is reached, as the docker command does: by the Host given, else $DOCKER_HOST, else the context that
// $DOCKER_CONTEXT names or `docker context use` has chosen, else at the default socket. Like moby's client, this file reads Docker's own variables.
func endpoint(c core.DockerConfig) ([]client.Opt, error) {
	opts := []client.Opt{client.FromEnv}
	switch {
	case c.Host != "":
		return append(opts, client.WithHost(c.Host)), nil
	case os.Getenv(client.EnvOverrideHost) != "":
		return opts, nil
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		file, err := config.Load("")
		if err != nil {
			return nil, fmt.Errorf("reading docker's configuration: %w", err)
		}
		name = file.CurrentContext
	}
	if name == "" || name == "default" {
		return opts, nil
	}
	of, err := contextOptions(config.ContextStoreDir(), name)
	if err != nil {
		return nil, fmt.Errorf("reading docker's context %s: %w", name, err)
	}
	return append(opts, of...), nil
}

// contextOptions reads a context from where the docker command keeps them.
func contextOptions(dir, name string) ([]client.Opt, error) {
	s := store.New(dir, store.NewConfig(func() any { return &map[string]any{} },
		store.EndpointTypeGetter(dockercontext.DockerEndpoint, func() any { return &dockercontext.EndpointMeta{} })))
	meta, err := s.GetMetadata(name)
	if err != nil {
		return nil, err
	}
	e, err := dockercontext.EndpointFromContext(meta)
	if err != nil {
		return nil, err
	}
	whole, err := dockercontext.WithTLSData(s, name, e)
	if err != nil {
		return nil, err
	}
	return whole.ClientOpts()
}
