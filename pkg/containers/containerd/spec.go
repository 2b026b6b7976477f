package containerd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// specOptions join what is asked for with what the image says. What cannot be done is an error.
func specOptions(c *core.ContainerConfig, img client.Image) ([]oci.SpecOpts, error) {
	opts := []oci.SpecOpts{oci.WithImageConfigArgs(img, c.Command)}
	if len(c.Shell) > 0 && len(c.Command) == 1 {
		opts = append(opts, oci.WithProcessArgs(append(append([]string{}, c.Shell...), c.Command[0])...))
	}
	opts = append(opts, needsCommand, oci.WithEnv(c.Env))
	if c.WorkDir != "" {
		if !path.IsAbs(c.WorkDir) {
			return nil, fmt.Errorf("working directory %q is not an absolute path", c.WorkDir)
		}
		opts = append(opts, oci.WithProcessCwd(c.WorkDir))
	}
	mounts, err := mounts(c.Volumes)
	if err != nil {
		return nil, err
	}
	limits, err := resources(c.Resources)
	if err != nil {
		return nil, err
	}
	net, err := networking(c.Network)
	if err != nil {
		return nil, err
	}
	opts = append(append(append(opts, oci.WithMounts(mounts)), limits...), net...)
	return append(opts, privileges(c.Privileges)...), nil
}

func needsCommand(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	if s.Process == nil || len(s.Process.Args) == 0 {
		return errors.New("no command given, and the image names none")
	}
	return nil
}

func mounts(volumes []core.VolumeMount) ([]specs.Mount, error) {
	var out []specs.Mount
	for _, v := range volumes {
		if v.IsVolumeName {
			return nil, fmt.Errorf("named volume %s: %w", v.Source, core.ErrNotSupported)
		}
		if !filepath.IsAbs(v.Source) || !path.IsAbs(v.Destination) {
			return nil, fmt.Errorf("volume %s:%s: both must be absolute paths", v.Source, v.Destination)
		}
		mode := "rw"
		if v.ReadOnly {
			mode = "ro"
		}
		out = append(out, specs.Mount{Type: "bind", Source: v.Source, Destination: path.Clean(v.Destination), Options: []string{"rbind", mode}})
	}
	return out, nil
}

func resources(r *core.ResourceLimits) ([]oci.SpecOpts, error) {
	if r == nil {
		return nil, nil
	}
	if r.Storage != 0 {
		return nil, fmt.Errorf("limit of storage: %w", core.ErrNotSupported)
	}
	if r.Memory < 0 || r.MemorySwap < -1 || r.CPUQuota < 0 || r.CPUPeriod < 0 || r.CPUShares < 0 || r.PIDs < 0 {
		return nil, errors.New("a limit is negative")
	}
	var opts []oci.SpecOpts
	if r.Memory != 0 {
		opts = append(opts, oci.WithMemoryLimit(uint64(r.Memory)))
	}
	if r.MemorySwap != 0 {
		opts = append(opts, oci.WithMemorySwap(r.MemorySwap))
	}
	if r.CPUQuota != 0 || r.CPUPeriod != 0 {
		opts = append(opts, oci.WithCPUCFS(r.CPUQuota, uint64(r.CPUPeriod)))
	}
	if r.CPUShares != 0 {
		opts = append(opts, oci.WithCPUShares(uint64(r.CPUShares)))
	}
	if r.PIDs != 0 {
		opts = append(opts, oci.WithPidsLimit(r.PIDs))
	}
	return opts, nil
}

func networking(n *core.NetworkConfig) ([]oci.SpecOpts, error) {
	if n == nil {
		n = &core.NetworkConfig{}
	}
	for name, asked := range map[string]bool{
		"restricted egress": n.RestrictEgress && n.Mode != "none", "port mappings": len(n.PortMappings) > 0, "name servers": len(n.DNS) > 0,
		"aliases": len(n.Aliases) > 0, "a named network": n.NetworkName != "", "a static address": n.IPConfig != nil, "an MTU": n.MTU != 0,
		"options of another backend": len(n.BackendOptions) > 0,
	} {
		if asked {
			return nil, fmt.Errorf("network with %s: %w", name, core.ErrNotSupported)
		}
	}
	switch n.Mode {
	case "", "default", "host":
		return []oci.SpecOpts{oci.WithHostNamespace(specs.NetworkNamespace), oci.WithHostHostsFile, oci.WithHostResolvconf}, nil
	case "none":
		return nil, nil // a namespace of its own with nothing in it is the default
	}
	return nil, hint.With(fmt.Errorf("network mode %q: %w", n.Mode, core.ErrNotSupported), "host or none")
}

// privileges come last: the filter of system calls depends on the capabilities.
func privileges(p *core.Privileges) (opts []oci.SpecOpts) {
	if p == nil {
		p = &core.Privileges{}
	}
	var caps []string
	for _, c := range p.Capabilities {
		caps = append(caps, "CAP_"+c)
	}
	opts = append(opts, oci.WithAddedCapabilities(caps))
	for _, d := range p.Devices {
		opts = append(opts, oci.WithDevices(d, d, "rwm"))
	}
	switch {
	case p.Privileged:
		return append(opts, oci.WithPrivileged, oci.WithAllDevicesAllowed, oci.WithHostDevices)
	case p.Unconfined:
		return append(opts, oci.WithSeccompUnconfined)
	}
	return append(opts, seccomp.WithDefaultProfile())
}
