package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/core"
)

// Container is a container of an image.
type Container struct {
	image  *DockerImage
	id     core.ContainerID
	config core.ContainerConfig
}

// ContainerOption changes a container that is being made.
type ContainerOption func(*Container) error

// Command is what is run, in place of the image's command. The image's entrypoint, if it has one, gets it as arguments.
func Command(cmd []string) ContainerOption {
	return func(c *Container) error {
		c.config.Command = cmd
		return nil
	}
}

// Shell is the shell for a Command of one word, which is then a line for it ([]string{"/bin/sh", "-c"}). A Command of several words is not
// for a shell, as with Docker's CMD.
func Shell(cmd []string) ContainerOption {
	return func(c *Container) error {
		c.config.Shell = cmd
		return nil
	}
}

// WorkDir is the directory the command starts in.
func WorkDir(dir string) ContainerOption {
	return func(c *Container) error {
		c.config.WorkDir = dir
		return nil
	}
}

// Volume shows a directory of the machine in the container, to read and to write.
func Volume(hostPath, containerPath string) ContainerOption {
	return func(c *Container) error {
		c.config.Volumes = append(c.config.Volumes, core.VolumeMount{Source: hostPath, Destination: containerPath})
		return nil
	}
}

// Variable sets a variable of the environment.
func Variable(key, value string) ContainerOption {
	return func(c *Container) error { return c.setenv(key, value) }
}

// Variables sets several variables of the environment.
func Variables(vars map[string]string) ContainerOption {
	return func(c *Container) error {
		for _, key := range slices.Sorted(maps.Keys(vars)) {
			if err := c.setenv(key, vars[key]); err != nil {
				return err
			}
		}
		return nil
	}
}

func (c *Container) setenv(key, value string) error {
	if key == "" || strings.ContainsAny(key, "=\x00") {
		return fmt.Errorf("%q is not the name of a variable", key)
	}
	c.config.Env = append(c.config.Env, key+"="+value)
	return nil
}

// RestrictedEgress keeps the container from everything but the public internet. A backend that cannot do that makes no container.
func RestrictedEgress() ContainerOption {
	return func(c *Container) error {
		c.network().RestrictEgress = true
		return nil
	}
}

// Network is the network mode: "host", "none", or what else the backend knows.
func Network(mode string) ContainerOption {
	return func(c *Container) error {
		c.network().Mode = mode
		return nil
	}
}

func (c *Container) network() *core.NetworkConfig {
	if c.config.Network == nil {
		c.config.Network = &core.NetworkConfig{}
	}
	return c.config.Network
}

// Resources limits what the container may use. A backend that cannot enforce a limit makes no container.
func Resources(r core.ResourceLimits) ContainerOption {
	return func(c *Container) error {
		c.config.Resources = &r
		return nil
	}
}

// ID names the container to its backend.
func (c *Container) ID() core.ContainerID { return c.id }

// cleanupTime bounds the removal of a container whose caller has no time left.
const cleanupTime = time.Minute

// Run starts the container, waits for its end, reads its logs and removes it. A command that ends with another code than 0 is an error
// that matches ErrorExitCode, and the logs are returned with it. The container is removed in any case, also if ctx has ended.
func (c *Container) Run(ctx context.Context) (_ *MuxedReadCloser, err error) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if cerr := c.Cleanup(ctx); cerr != nil && err == nil {
			err = cerr
		}
	}()
	b := c.image.backend
	if err := b.Start(ctx, c.id); err != nil {
		return nil, c.error(ErrorContainerStart, err)
	}
	if err := c.Wait(ctx); err != nil {
		return nil, err
	}
	info, err := b.Inspect(ctx, c.id)
	if err != nil {
		return nil, c.error(ErrorContainerInspect, err)
	}
	// All is read before the container is removed: its logs go with it.
	logs, err := b.Logs(ctx, c.id)
	if err != nil {
		return nil, c.error(ErrorContainerLogs, err)
	}
	var data bytes.Buffer
	_, err = io.Copy(&data, logs)
	if err = errors.Join(err, logs.Close()); err != nil {
		return nil, c.error(ErrorContainerLogs, err)
	}
	muxed := &MuxedReadCloser{reader: io.NopCloser(&data)}
	if info.ExitCode != 0 {
		return muxed, fmt.Errorf("container Id:`%s` image:`%s` failed with %w:%d", c.id, c.image.name, ErrorExitCode, info.ExitCode)
	}
	return muxed, nil
}

func (c *Container) error(sentinel, err error) error {
	return fmt.Errorf("%w for container Id:`%s` image:`%s` with: %w", sentinel, c.id, c.image.name, err)
}

// Wait returns when the container does not run any more. Its exit code is no error.
func (c *Container) Wait(ctx context.Context) error {
	if err := c.image.backend.Wait(ctx, c.id); err != nil {
		return c.error(ErrorContainerWait, err)
	}
	return nil
}

// Cleanup removes the container, also if it runs.
func (c *Container) Cleanup(ctx context.Context) error {
	if err := c.image.backend.Remove(ctx, c.id); err != nil {
		return fmt.Errorf("removing container with id `%s` failed with: %w", c.id, err)
	}
	return nil
}
