package plan

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/hint"
)

const (
	networkNone = "none"
	networkHost = "host"
	insecure    = "insecure"
	// pipesDir is where scripts from heredocs are mounted.
	pipesDir = "/dev/pipes/"
)

// run plans a RUN.
func (s *stage) run(c *dockerfile.RunCommand, from []*origin) error {
	if d := dockerfile.Devices(c); len(d) > 0 {
		return hint.With(fmt.Errorf("device %s is not available: RUN --device is not supported", strings.Join(d, ", ")),
			"devices of the host cannot be given to a step without privilege")
	}
	args, script, err := s.runArgs(c)
	if err != nil {
		return err
	}
	r := &Run{Args: args, Dir: s.dir(), User: s.out.Image.Config.User, HiddenEnv: proxyEnv(s.p.args)}
	if script != nil {
		r.Mounts = append(r.Mounts, *script)
	}
	mounts, err := s.mounts(c, from)
	if err != nil {
		return err
	}
	r.Mounts = append(r.Mounts, mounts...)
	r.Env = s.runEnv(mounts)
	if r.Network, err = s.network(c); err != nil {
		return err
	}
	if dockerfile.Security(c) == insecure {
		if !s.p.opts.AllowInsecure {
			return notAllowed("security.insecure")
		}
		r.Security = insecure
	}
	text := args
	if known := s.historyArgs(); len(known) > 0 {
		text = slices.Concat([]string{fmt.Sprintf("|%d", len(known))}, known, args)
	}
	s.layer("RUN "+strings.Join(text, " ")+" # buildkit", &Step{
		Name:     s.stepName(s.runText(c, mounts)),
		Location: s.location(c.Location()),
		Run:      r,
	})
	return nil
}

// runArgs are the arguments of the process, and the script to mount where a heredoc names its own interpreter.
func (s *stage) runArgs(c *dockerfile.RunCommand) ([]string, *Mount, error) {
	args := c.CmdLine
	if len(c.Files) == 0 {
		if c.PrependShell {
			args = s.shell(args)
		}
		return args, nil, nil
	}
	if len(args) != 1 || !c.PrependShell {
		return nil, nil, errors.New("a heredoc is possible in the shell form of RUN only")
	}
	if !dockerfile.IsHeredoc(args[0]) {
		// A command that reads heredocs, or several of them: the shell knows what to do, given the text as it was.
		var b strings.Builder
		b.WriteString(args[0])
		for _, f := range c.Files {
			b.WriteString("\n" + f.Data + f.Name)
		}
		return s.shell([]string{b.String()}), nil, nil
	}
	data := c.Files[0].Data
	if c.Files[0].Chomp {
		data = dockerfile.Chomp(data)
	}
	if !strings.HasPrefix(data, "#!") || s.out.Image.OS == "windows" {
		return s.shell([]string{data}), nil, nil
	}
	mode := uint64(0o755)
	target := path.Join(pipesDir, c.Files[0].Name)
	script := &Mount{Type: "inline", Target: target, ReadOnly: true, Mode: &mode, Inline: []byte(data)}
	return s.shell([]string{target}), script, nil
}

// runEnv is the environment of a RUN, complete but for what must not be in the cache key.
func (s *stage) runEnv(mounts []Mount) []string {
	env := s.env
	if i := slices.IndexFunc(mounts, func(m Mount) bool { return m.Type == string(dockerfile.MountSSH) }); i >= 0 {
		if _, ok := env.Get("SSH_AUTH_SOCK"); !ok {
			env = env.clone()
			env.set("SSH_AUTH_SOCK", mounts[i].Target)
		}
	}
	if _, ok := env.Get("PATH"); !ok && s.out.Platform.OS != "windows" {
		return append(env.slice(), "PATH="+defaultPath)
	}
	return env.slice()
}

// network is the mode of a RUN: its own, or else that of the options. The host's must have been granted.
func (s *stage) network(c *dockerfile.RunCommand) (string, error) {
	mode := dockerfile.Network(c)
	if mode == "default" {
		mode = s.p.opts.Network
	}
	if mode == networkHost && !s.p.opts.AllowHostNetwork {
		return "", notAllowed("network.host")
	}
	return mode, nil
}

func notAllowed(entitlement string) error {
	return hint.With(fmt.Errorf("%s is not allowed", entitlement), "grant it with --allow "+entitlement)
}

// runText is how progress shows a RUN: as written, variables expanded but not those that hold secrets.
func (s *stage) runText(c *dockerfile.RunCommand, mounts []Mount) string {
	text := sourceOf(c)
	if len(c.Files) > 0 && dockerfile.IsHeredoc(c.CmdLine[0]) {
		text += " (" + firstLine(c.Files[0].Data) + ")"
	}
	env := s.env
	for _, m := range mounts {
		if m.Type == string(dockerfile.MountSecret) && m.Env != "" {
			if env == s.env {
				env = env.clone()
			}
			env.set(m.Env, "****")
		}
	}
	lex := dockerfile.NewLex(s.p.file.Escape)
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	return s.expandText(lex, text, env)
}

// firstLine is a heredoc in short.
func firstLine(doc string) string {
	line, _, more := strings.Cut(strings.TrimSpace(doc), "\n")
	line = strings.TrimSuffix(line, "\r")
	if more {
		line += "..."
	}
	return line
}
