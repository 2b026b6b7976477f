// Package docker is the backend of package containers for a Docker daemon, through moby's client. Importing it makes the backend known to
// containers.NewBackend:
//
//	backend, err := containers.NewBackend(core.DockerConfig{})
//	client, err := containers.New(containers.WithBackend(backend))
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

var _ = core.RegisterBackend(core.BackendTypeDocker, func(c core.BackendConfig) (core.Backend, error) {
	switch c := c.(type) {
	case core.DockerConfig:
		return New(c)
	case *core.DockerConfig:
		return New(*c)
	}
	return nil, fmt.Errorf("%w: a %T is not a core.DockerConfig", core.ErrBackendNotAvailable, c)
})

// Backend runs containers with a Docker daemon.
type Backend struct{ client *client.Client }

var (
	_ core.Backend       = (*Backend)(nil)
	_ core.FilterCleaner = (*Backend)(nil)
)

// New makes a backend. The daemon is not spoken to before something is asked of it.
func New(c core.DockerConfig) (*Backend, error) {
	opts, err := endpoint(c)
	if err != nil {
		return nil, err
	}
	if c.APIVersion != "" {
		opts = append(opts, client.WithAPIVersion(c.APIVersion))
	}
	cl, err := client.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("reaching docker: %w", err)
	}
	return &Backend{cl}, nil
}

// Close drops connections.
func (b *Backend) Close() error { return b.client.Close() }

// BackendType implements core.Backend.
func (b *Backend) BackendType() core.BackendType { return core.BackendTypeDocker }

// Image implements core.Backend.
func (b *Backend) Image(name string) core.Image { return &image{b, name} }

// HealthCheck implements core.Backend.
func (b *Backend) HealthCheck(ctx context.Context) error {
	_, err := b.client.Ping(ctx, client.PingOptions{})
	return err
}

// Capabilities implements core.Backend. Limits are the daemon's to enforce.
func (b *Backend) Capabilities() core.BackendCapabilities {
	return core.BackendCapabilities{
		SupportsMemory: true, SupportsCPU: true, SupportsPIDs: true, SupportsMemorySwap: true,
		SupportsBuild: true, SupportsOCI: true, SupportsNetworking: true, SupportsVolumes: true,
	}
}

// Create implements core.Backend.
func (b *Backend) Create(ctx context.Context, c *core.ContainerConfig) (core.ContainerID, error) {
	if c == nil || c.Image == "" {
		return "", errors.New("creating a container: no image given")
	}
	conf := &container.Config{Image: c.Image, Cmd: c.Command, Shell: c.Shell, Env: c.Env, WorkingDir: c.WorkDir}
	if len(c.Shell) > 0 && len(c.Command) == 1 {
		conf.Entrypoint, conf.Cmd = c.Shell, c.Command
	}
	host := &container.HostConfig{}
	if err := errors.Join(resources(c.Resources, host), networking(c.Network, conf, host), privileges(c.Privileges, host)); err != nil {
		return "", fmt.Errorf("creating a container of %s: %w", c.Image, err)
	}
	for _, v := range c.Volumes {
		m := mount.Mount{Type: mount.TypeBind, Source: v.Source, Target: v.Destination, ReadOnly: v.ReadOnly}
		if v.IsVolumeName {
			m.Type = mount.TypeVolume
		}
		host.Mounts = append(host.Mounts, m)
	}
	made, err := b.client.ContainerCreate(ctx, client.ContainerCreateOptions{Config: conf, HostConfig: host})
	return core.ContainerID(made.ID), err
}

func resources(r *core.ResourceLimits, host *container.HostConfig) error {
	if r == nil {
		return nil
	}
	if r.Storage != 0 {
		return fmt.Errorf("limit of storage: %w", core.ErrNotSupported)
	}
	host.Resources = container.Resources{Memory: r.Memory, MemorySwap: r.MemorySwap, CPUQuota: r.CPUQuota, CPUPeriod: r.CPUPeriod, CPUShares: r.CPUShares}
	if r.PIDs != 0 {
		host.PidsLimit = &r.PIDs
	}
	return nil
}

func networking(n *core.NetworkConfig, conf *container.Config, host *container.HostConfig) error {
	if n == nil {
		return nil
	}
	if n.RestrictEgress && n.Mode != "none" || n.IPConfig != nil || n.MTU != 0 || len(n.Aliases) > 0 || len(n.BackendOptions) > 0 {
		return fmt.Errorf("network with restricted egress, a static address, an MTU, aliases or options: %w", core.ErrNotSupported)
	}
	host.NetworkMode = container.NetworkMode(n.Mode)
	if n.Mode == "custom" || n.Mode == "" && n.NetworkName != "" {
		host.NetworkMode = container.NetworkMode(n.NetworkName)
	}
	for _, text := range n.DNS {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("name server %q: %w", text, err)
		}
		host.DNS = append(host.DNS, ip)
	}
	for _, p := range n.PortMappings {
		protocol := p.Protocol
		if protocol == "" {
			protocol = "tcp"
		}
		port, err := network.ParsePort(strconv.Itoa(p.ContainerPort) + "/" + protocol)
		if err != nil {
			return err
		}
		binding := network.PortBinding{HostPort: strconv.Itoa(p.HostPort)}
		if p.HostIP != "" {
			if binding.HostIP, err = netip.ParseAddr(p.HostIP); err != nil {
				return fmt.Errorf("port %d: %w", p.HostPort, err)
			}
		}
		if conf.ExposedPorts == nil {
			conf.ExposedPorts, host.PortBindings = network.PortSet{}, network.PortMap{}
		}
		conf.ExposedPorts[port] = struct{}{}
		host.PortBindings[port] = append(host.PortBindings[port], binding)
	}
	return nil
}

func privileges(p *core.Privileges, host *container.HostConfig) error {
	if p == nil {
		return nil
	}
	host.Privileged, host.CapAdd = p.Privileged, p.Capabilities
	for _, d := range p.Devices {
		host.Devices = append(host.Devices, container.DeviceMapping{PathOnHost: d, PathInContainer: d, CgroupPermissions: "rwm"})
	}
	if p.Unconfined {
		host.SecurityOpt = []string{"seccomp=unconfined", "apparmor=unconfined"}
	}
	return nil
}

// Start implements core.Backend.
func (b *Backend) Start(ctx context.Context, id core.ContainerID) error {
	_, err := b.client.ContainerStart(ctx, string(id), client.ContainerStartOptions{})
	return err
}

// Stop implements core.Backend.
func (b *Backend) Stop(ctx context.Context, id core.ContainerID) error {
	_, err := b.client.ContainerStop(ctx, string(id), client.ContainerStopOptions{})
	return err
}

// Remove implements core.Backend.
func (b *Backend) Remove(ctx context.Context, id core.ContainerID) error {
	_, err := b.client.ContainerRemove(ctx, string(id), client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	return err
}

// Wait implements core.Backend.
func (b *Backend) Wait(ctx context.Context, id core.ContainerID) error {
	w := b.client.ContainerWait(ctx, string(id), client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case err := <-w.Error:
		return err
	case r := <-w.Result:
		if r.Error != nil {
			return errors.New(r.Error.Message)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Logs implements core.Backend.
func (b *Backend) Logs(ctx context.Context, id core.ContainerID) (io.ReadCloser, error) {
	return b.client.ContainerLogs(ctx, string(id), client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
}

// Inspect implements core.Backend.
func (b *Backend) Inspect(ctx context.Context, id core.ContainerID) (*core.ContainerInfo, error) {
	r, err := b.client.ContainerInspect(ctx, string(id), client.ContainerInspectOptions{})
	if err != nil {
		return nil, err
	}
	c := r.Container
	if c.State == nil || c.Config == nil || c.HostConfig == nil {
		return nil, fmt.Errorf("inspecting container %s: the answer has no state", id)
	}
	info := &core.ContainerInfo{ID: id, Status: string(c.State.Status), ExitCode: c.State.ExitCode, Image: c.Config.Image}
	if t, err := time.Parse(time.RFC3339Nano, c.State.StartedAt); err == nil {
		info.StartedAt = t
	}
	h := c.HostConfig
	info.Resources = &core.ResourceLimits{Memory: h.Memory, MemorySwap: h.MemorySwap, CPUQuota: h.CPUQuota, CPUPeriod: h.CPUPeriod, CPUShares: h.CPUShares}
	if h.PidsLimit != nil {
		info.Resources.PIDs = *h.PidsLimit
	}
	return info, nil
}
