package plan

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/moby/buildkit/util/system"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/sys/signal"
)

// configure carries out an instruction that changes nothing but the config.
func (s *stage) configure(c dockerfile.Command, checks *dockerfile.Checks) error {
	cfg := &s.out.Image.Config
	switch c := c.(type) {
	case *dockerfile.EnvCommand:
		s.setEnv(c, checks)
	case *dockerfile.LabelCommand:
		s.setLabels(c, checks)
	case *dockerfile.CmdCommand:
		s.usedOnce(&s.cmdAt, c, checks)
		cfg.Cmd = s.commandLine(c, c.CmdLine, c.PrependShell, checks)
		//nolint:staticcheck // Deprecated in the OCI spec, but what BuildKit writes and Docker reads.
		cfg.ArgsEscaped = true
		s.metadata(fmt.Sprintf("CMD %q", cfg.Cmd))
	case *dockerfile.EntrypointCommand:
		s.usedOnce(&s.entrypointAt, c, checks)
		cfg.Entrypoint = s.commandLine(c, c.CmdLine, c.PrependShell, checks)
		if s.cmdAt == nil {
			cfg.Cmd = nil // arguments for the base's entry point mean nothing to this one
		}
		s.metadata(fmt.Sprintf("ENTRYPOINT %q", cfg.Entrypoint))
	case *dockerfile.HealthCheckCommand:
		s.usedOnce(&s.healthcheckAt, c, checks)
		health := dockerspec.HealthcheckConfig(*c.Health)
		cfg.Healthcheck = &health
		s.metadata(fmt.Sprintf("HEALTHCHECK %+v", health))
	case *dockerfile.UserCommand:
		cfg.User = c.User
		s.metadata("USER " + c.User)
	case *dockerfile.VolumeCommand:
		return s.volume(c)
	case *dockerfile.StopSignalCommand:
		if _, err := signal.ParseSignal(c.Signal); err != nil {
			return err
		}
		cfg.StopSignal = c.Signal
		s.metadata("STOPSIGNAL " + c.Signal)
	case *dockerfile.ShellCommand:
		cfg.Shell = c.Shell
		s.metadata(fmt.Sprintf("SHELL %v", c.Shell))
	case *dockerfile.MaintainerCommand:
		s.out.Image.Author = c.Maintainer
		s.metadata("MAINTAINER " + c.Maintainer)
	case *dockerfile.OnbuildCommand:
		cfg.OnBuild = append(cfg.OnBuild, c.Expression)
	default:
		return fmt.Errorf("instruction %s is not supported", c.Name())
	}
	return nil
}

func (s *stage) setEnv(c *dockerfile.EnvCommand, checks *dockerfile.Checks) {
	text := "ENV"
	for _, kv := range c.Env {
		if kv.NoDelim {
			checks.LegacyKeyValueFormat(c.Location(), c.Name())
		}
		s.checkSecretName(checks, "ENV", kv.Key, c.Location())
		text += " " + kv.String()
		s.env.set(kv.Key, kv.Value)
		s.out.Image.Config.Env = setVariable(s.out.Image.Config.Env, kv.Key, kv.Value)
	}
	s.metadata(text)
}

// setVariable sets a variable of the config, where order is that of the first mention.
func setVariable(list []string, key, value string) []string {
	for i, kv := range list {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			list[i] = key + "=" + value
			return list
		}
	}
	return append(list, key+"="+value)
}

func (s *stage) setLabels(c *dockerfile.LabelCommand, checks *dockerfile.Checks) {
	cfg := &s.out.Image.Config
	if cfg.Labels == nil {
		cfg.Labels = make(map[string]string, len(c.Labels))
	}
	text := "LABEL"
	for _, kv := range c.Labels {
		if kv.NoDelim {
			checks.LegacyKeyValueFormat(c.Location(), c.Name())
		}
		cfg.Labels[kv.Key] = kv.Value
		text += " " + kv.String()
	}
	s.metadata(text)
}

func (s *stage) volume(c *dockerfile.VolumeCommand) error {
	cfg := &s.out.Image.Config
	if cfg.Volumes == nil {
		cfg.Volumes = map[string]struct{}{}
	}
	for _, v := range c.Volumes {
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		cfg.Volumes[v] = struct{}{}
	}
	s.metadata(fmt.Sprintf("VOLUME %v", c.Volumes))
	return nil
}

// commandLine is what CMD and ENTRYPOINT run: as written in exec form, through the shell otherwise.
func (s *stage) commandLine(c dockerfile.Command, line []string, shellForm bool, checks *dockerfile.Checks) []string {
	if !shellForm {
		return line
	}
	if len(s.out.Image.Config.Shell) == 0 {
		checks.JSONArgsRecommended(c.Location(), c.Name())
	}
	return s.shell(line)
}

// shell is a command line run by the stage's shell.
func (s *stage) shell(line []string) []string {
	shell := []string{"/bin/sh", "-c"}
	switch img := &s.out.Image; {
	case len(img.Config.Shell) > 0:
		shell = append([]string(nil), img.Config.Shell...)
	case img.OS == "windows":
		shell = []string{"cmd", "/S", "/C"}
	}
	return append(shell, strings.Join(line, " "))
}

// usedOnce warns of the former of two instructions of which only the last counts.
func (s *stage) usedOnce(at *[]dockerfile.Range, c dockerfile.Command, checks *dockerfile.Checks) {
	if *at != nil {
		checks.MultipleInstructionsDisallowed(*at, c.Name())
	}
	*at = c.Location()
}

// workdir changes the working directory. It makes a layer unless that is the root, which exists.
func (s *stage) workdir(c *dockerfile.WorkdirCommand, checks *dockerfile.Checks) error {
	if !s.workdirSet && !system.IsAbs(c.Path, s.out.Platform.OS) {
		checks.WorkdirRelativePath(c.Location(), c.Path)
	}
	s.workdirSet = true
	cfg := &s.out.Image.Config
	wd, err := system.NormalizeWorkdir(cfg.WorkingDir, c.Path, s.out.Platform.OS)
	if err != nil {
		return err
	}
	cfg.WorkingDir = wd
	dir := s.dir()
	if dir == "/" {
		s.metadata("WORKDIR " + dir)
		return nil
	}
	s.layer("WORKDIR "+dir, &Step{
		Name:     s.stepName(s.expandedText(c)),
		Location: s.location(c.Location()),
		Workdir:  &Workdir{Path: dir, User: cfg.User},
	})
	return nil
}

// dir is the working directory, with slashes on every platform.
func (s *stage) dir() string {
	if wd := s.out.Image.Config.WorkingDir; wd != "" {
		return system.ToSlash(wd, s.out.Platform.OS)
	}
	return "/"
}
