package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/engine"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/moby/moby/api/types/container"
)

// ContainerCreateIgnoreImagesArgsEscaped implements ExecBackend.
func (b *local) ContainerCreateIgnoreImagesArgsEscaped(ctx context.Context, c ContainerCreateConfig) (container.CreateResponse, error) {
	if c.Config == nil {
		return container.CreateResponse{}, errors.New("creating a container: no config given")
	}
	m := &made{workdir: c.Config.WorkingDir, removed: make(chan struct{})}
	var base *container.Config
	if c.Config.Image != "" {
		img, chain, err := b.find(c.Config.Image, c.Platform)
		if err != nil {
			return container.CreateResponse{}, kinded(fmt.Errorf("creating a container: %w", err))
		}
		m.image, m.chain, base = img.ID(), chain, img.Config
	}
	spec, err := containerSpec(c, base)
	if err != nil {
		return container.CreateResponse{}, fmt.Errorf("creating a container: %w", err)
	}
	noLog := c.HostConfig != nil && c.HostConfig.LogConfig.Type == "none"
	id, err := b.engine.CreateContainer(ctx, engine.ContainerSpec{Chain: m.chain, Spec: spec, NoLog: noLog})
	if err != nil {
		return container.CreateResponse{}, fmt.Errorf("creating a container: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.containers[id] = m
	return container.CreateResponse{ID: id, Warnings: []string{}}, nil
}

// ContainerCreate implements OlderBackend.
func (b *local) ContainerCreate(ctx context.Context, c ContainerCreateConfig) (container.CreateResponse, error) {
	return b.ContainerCreateIgnoreImagesArgsEscaped(ctx, c)
}

// containerSpec joins a container's config with that of its image as Docker does: what the container does not say is the image's.
func containerSpec(c ContainerCreateConfig, base *container.Config) (executor.Spec, error) {
	conf := *c.Config
	if base == nil {
		base = &container.Config{}
	}
	if conf.Tty {
		return executor.Spec{}, errors.New("a terminal is not supported")
	}
	if len(conf.Entrypoint) == 0 {
		if len(conf.Cmd) == 0 {
			conf.Cmd = base.Cmd
		}
		if conf.Entrypoint == nil {
			conf.Entrypoint = base.Entrypoint
		}
	}
	if len(conf.Entrypoint) == 1 && conf.Entrypoint[0] == "" {
		conf.Entrypoint = nil // that is how an interpreter asks for none
	}
	p := executor.Process{Args: append(slices.Clone(conf.Entrypoint), conf.Cmd...), Env: mergeEnv(base.Env, conf.Env), User: conf.User, Dir: conf.WorkingDir}
	if p.User == "" {
		p.User = base.User
	}
	if p.Dir == "" {
		p.Dir = base.WorkingDir
	}
	if p.Dir = path.Clean("/" + p.Dir); len(p.Args) == 0 {
		p.Args = []string{"/"} // a container that is only committed needs none; started, it cannot be executed
	}
	spec := executor.Spec{Process: p, Hostname: conf.Hostname}
	if conf.NetworkDisabled {
		spec.Network = executor.NetworkNone
	}
	if c.HostConfig == nil {
		return spec, nil
	}
	return spec, hostConfig(*c.HostConfig, &spec)
}

// mergeEnv adds to an environment the variables of the image that it does not set itself.
func mergeEnv(base, env []string) []string {
	out := slices.Clone(env)
	for _, e := range base {
		name, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") }) {
			out = append(out, e)
		}
	}
	return out
}

// hostConfig carries out a HostConfig. What is left after that, and is not its zero value, cannot be had.
func hostConfig(h container.HostConfig, spec *executor.Spec) error {
	switch h.NetworkMode {
	case "", "default", "bridge": // one's own network would be a privilege; the machine's is what RUN sees
	case "host":
		spec.Network = executor.NetworkHost
	case "none":
		spec.Network = executor.NetworkNone
	default:
		return fmt.Errorf("network mode %q is not supported", h.NetworkMode)
	}
	if h.ShmSize < 0 {
		return fmt.Errorf("shm size %d is negative", h.ShmSize)
	}
	spec.ShmSize = h.ShmSize
	for _, extra := range h.ExtraHosts {
		name, text, _ := strings.Cut(extra, ":")
		ip, err := netip.ParseAddr(strings.Trim(text, "[]"))
		if err != nil || name == "" {
			return fmt.Errorf("extra host %q is not NAME:ADDRESS", extra)
		}
		spec.Hosts = append(spec.Hosts, executor.Host{Name: name, IP: ip})
	}
	for _, u := range h.Ulimits {
		spec.Ulimits = append(spec.Ulimits, executor.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, bind := range h.Binds {
		parts := strings.Split(bind, ":")
		if len(parts) < 2 || len(parts) > 3 || !path.IsAbs(parts[0]) || !path.IsAbs(parts[1]) || len(parts) == 3 && parts[2] != "ro" && parts[2] != "rw" {
			return fmt.Errorf("bind %q is not SOURCE:TARGET[:ro|rw] with absolute paths", bind)
		}
		spec.Mounts = append(spec.Mounts, executor.Mount{
			Type: executor.Bind, Source: parts[0], Target: path.Clean(parts[1]), ReadOnly: len(parts) == 3 && parts[2] == "ro",
		})
	}
	if h.Privileged {
		spec.Security = executor.SecurityInsecure
	}
	if h.Isolation != "" && h.Isolation != "default" {
		return fmt.Errorf("isolation %q is not supported", h.Isolation)
	}
	h.NetworkMode, h.ShmSize, h.ExtraHosts, h.Ulimits, h.Binds, h.Privileged, h.Isolation = "", 0, nil, nil, nil, false, ""
	h.LogConfig, h.AutoRemove, h.ConsoleSize = container.LogConfig{}, false, [2]uint{}
	return refuseRest(reflect.ValueOf(h), "")
}

// refuseRest names the first field that asks for something.
func refuseRest(v reflect.Value, at string) error {
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case f.Kind() == reflect.Struct:
			if err := refuseRest(f, at+name+"."); err != nil {
				return err
			}
		case (f.Kind() == reflect.Slice || f.Kind() == reflect.Map) && f.Len() == 0, f.IsZero():
		default:
			return fmt.Errorf("HostConfig.%s%s: %v is not supported", at, name, f.Interface())
		}
	}
	return nil
}

// ContainerAttachRaw implements ExecBackend. Without stream there is nothing to wait for.
func (b *local) ContainerAttachRaw(cID string, stdin io.ReadCloser, stdout, stderr io.Writer, stream bool, attached chan struct{}) error {
	if _, err := b.made(cID); err != nil {
		return err
	}
	if !stream {
		close(attached)
		return nil
	}
	s := engine.Streams{Stdout: stdout, Stderr: stderr}
	if stdin != nil {
		s.Stdin = stdin
	}
	return kinded(b.engine.AttachContainer(context.Background(), cID, s, func() { close(attached) }))
}

// ContainerStart implements ExecBackend.
func (b *local) ContainerStart(ctx context.Context, containerID, checkpoint, checkpointDir string) error {
	if checkpoint != "" || checkpointDir != "" {
		return fmt.Errorf("starting container %s: checkpoints are not supported", containerID)
	}
	return kinded(b.engine.StartContainer(ctx, containerID))
}

// ContainerWait implements ExecBackend.
func (b *local) ContainerWait(ctx context.Context, name string, condition container.WaitCondition) (<-chan StateStatus, error) {
	m, err := b.made(name)
	if err != nil {
		return nil, err
	}
	switch condition {
	case "", container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
	default:
		return nil, fmt.Errorf("waiting for container %s: unknown condition %q", name, condition)
	}
	out := make(chan StateStatus, 1)
	go func() { out <- b.wait(ctx, name, m, condition) }()
	return out, nil
}

func (b *local) wait(ctx context.Context, name string, m *made, condition container.WaitCondition) StateStatus {
	st, err := b.engine.WaitContainer(ctx, name)
	if err == nil && condition == container.WaitConditionRemoved {
		select {
		case <-m.removed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	switch {
	case err != nil:
		return NewStateStatus(-1, kinded(err))
	case st.Error != "":
		return NewStateStatus(st.ExitCode, errors.New(st.Error))
	}
	return NewStateStatus(st.ExitCode, nil)
}

// ContainerKill implements OlderBackend.
func (b *local) ContainerKill(containerID string, signal uint64) error {
	if _, err := b.made(containerID); err != nil {
		return err
	}
	const sigkill = 9
	if signal != 0 && signal != sigkill {
		return fmt.Errorf("killing container %s: signal %d is not supported", containerID, signal)
	}
	return kinded(b.engine.StopContainer(context.Background(), containerID, sigkill, 0))
}

// ContainerRm implements ExecBackend.
func (b *local) ContainerRm(name string, config *ContainerRmConfig) error {
	m, err := b.made(name)
	if err != nil {
		return err
	}
	if config == nil {
		config = &ContainerRmConfig{}
	}
	if config.RemoveLink {
		return fmt.Errorf("removing container %s: there are no links to remove", name)
	}
	if err := b.engine.RemoveContainer(context.Background(), name, config.ForceRemove); err != nil {
		return kinded(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.containers, name)
	close(m.removed)
	return nil
}

var _ Image = (*image.Image)(nil)
