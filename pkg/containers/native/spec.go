package native

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/cairn-build/cairn/pkg/engine"
)

// containerSpec joins what is asked for with what the image says. What cannot be done is an error.
func containerSpec(c *core.ContainerConfig, img foundImage) (engine.ContainerSpec, error) {
	spec := executor.Spec{Process: process(c, img)}
	if len(spec.Process.Args) == 0 {
		return engine.ContainerSpec{}, fmt.Errorf("no command given, and the image names none")
	}
	if c.WorkDir != "" && !path.IsAbs(c.WorkDir) {
		return engine.ContainerSpec{}, fmt.Errorf("working directory %q is not an absolute path", c.WorkDir)
	}
	if err := refuseLimits(c.Resources); err != nil {
		return engine.ContainerSpec{}, err
	}
	if err := network(c.Network, &spec); err != nil {
		return engine.ContainerSpec{}, err
	}
	if err := privileges(c.Privileges, &spec); err != nil {
		return engine.ContainerSpec{}, err
	}
	for _, v := range c.Volumes {
		m, err := volume(v)
		if err != nil {
			return engine.ContainerSpec{}, err
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	return engine.ContainerSpec{Chain: img.layers, Spec: spec}, nil
}

// process is the image's, with the changes that config asks for.
func process(c *core.ContainerConfig, img foundImage) executor.Process {
	conf := img.config.Config
	command := conf.Cmd
	if len(c.Command) > 0 {
		command = c.Command
	}
	args := append(slices.Clone(conf.Entrypoint), command...)
	if len(c.Shell) > 0 && len(c.Command) == 1 {
		args = append(slices.Clone(c.Shell), c.Command[0])
	}
	p := executor.Process{Args: args, Env: mergeEnv(conf.Env, c.Env), Dir: conf.WorkingDir, User: conf.User}
	if c.WorkDir != "" {
		p.Dir = c.WorkDir
	}
	if p.Dir == "" {
		p.Dir = "/"
	}
	return p
}

// mergeEnv is an environment with some variables set or replaced.
func mergeEnv(env, changes []string) []string {
	out := slices.Clone(env)
	for _, change := range changes {
		name, _, _ := strings.Cut(change, "=")
		out = slices.DeleteFunc(out, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		out = append(out, change)
	}
	return out
}

// refuseLimits: without a control group of one's own there is nothing that would enforce them.
func refuseLimits(r *core.ResourceLimits) error {
	if r == nil {
		return nil
	}
	for name, v := range map[string]int64{
		"memory": r.Memory, "memory and swap": r.MemorySwap, "CPU quota": r.CPUQuota, "CPU period": r.CPUPeriod, "CPU shares": r.CPUShares,
		"storage": r.Storage, "processes": r.PIDs,
	} {
		if v != 0 {
			return fmt.Errorf("limit of %s: %w", name, core.ErrNotSupported)
		}
	}
	return nil
}

func network(n *core.NetworkConfig, spec *executor.Spec) error {
	if n == nil {
		return nil
	}
	switch n.Mode {
	case "", "default", "host":
		spec.Network = executor.NetworkHost
	case "none":
		spec.Network = executor.NetworkNone
	default:
		return hint.With(fmt.Errorf("network mode %q: %w", n.Mode, core.ErrNotSupported), "host or none")
	}
	for name, asked := range map[string]bool{
		"restricted egress": n.RestrictEgress && n.Mode != "none", "port mappings": len(n.PortMappings) > 0, "name servers": len(n.DNS) > 0,
		"aliases": len(n.Aliases) > 0, "a named network": n.NetworkName != "", "a static address": n.IPConfig != nil, "an MTU": n.MTU != 0,
		"options of another backend": len(n.BackendOptions) > 0,
	} {
		if asked {
			return fmt.Errorf("network with %s: %w", name, core.ErrNotSupported)
		}
	}
	return nil
}

func privileges(p *core.Privileges, spec *executor.Spec) error {
	switch {
	case p == nil:
	case len(p.Devices) > 0:
		return fmt.Errorf("devices of the machine: %w", core.ErrNotSupported)
	case p.Privileged:
		spec.Security = executor.SecurityInsecure
	case len(p.Capabilities) > 0 || p.Unconfined:
		return fmt.Errorf("more capabilities, or no filter of system calls, without being privileged: %w", core.ErrNotSupported)
	}
	return nil
}

func volume(v core.VolumeMount) (executor.Mount, error) {
	if v.IsVolumeName {
		return executor.Mount{}, fmt.Errorf("named volume %s: %w", v.Source, core.ErrNotSupported)
	}
	if !filepath.IsAbs(v.Source) || !path.IsAbs(v.Destination) {
		return executor.Mount{}, fmt.Errorf("volume %s:%s: both must be absolute paths", v.Source, v.Destination)
	}
	if _, err := os.Stat(v.Source); err != nil {
		return executor.Mount{}, fmt.Errorf("volume %s:%s: %w", v.Source, v.Destination, err)
	}
	return executor.Mount{Type: executor.Bind, Source: v.Source, Target: path.Clean(v.Destination), ReadOnly: v.ReadOnly}, nil
}
