package plan

import (
	"errors"
	"fmt"
	"path"

	"github.com/cairn-build/cairn/pkg/dockerfile"
)

const (
	secretMode = 0o400
	sshMode    = 0o600
)

// mounts plans the mounts of a RUN, in the order of its flags.
func (s *stage) mounts(c *dockerfile.RunCommand, from []*origin) ([]Mount, error) {
	var out []Mount
	agents := 0
	for i, m := range dockerfile.Mounts(c) {
		var o *origin
		if i < len(from) {
			o = from[i]
		}
		var planned Mount
		var err error
		switch m.Type {
		case dockerfile.MountSecret:
			planned, err = secretMount(m)
			s.outline.need(s.outline.secrets, planned.ID, needInfo{m.Required, s.location(c.Location())})
		case dockerfile.MountSSH:
			planned, err = sshMount(m, agents)
			agents++
			s.outline.need(s.outline.ssh, planned.ID, needInfo{m.Required, s.location(c.Location())})
		default:
			planned, err = s.fileMount(m, o)
		}
		if err != nil {
			return nil, err
		}
		if planned.Target == "/" {
			return nil, errors.New(`invalid mount target "/"`)
		}
		planned.Type = string(m.Type)
		out = append(out, planned)
	}
	return out, nil
}

// fileMount plans a bind, cache or tmpfs mount.
func (s *stage) fileMount(m *dockerfile.Mount, o *origin) (Mount, error) {
	out := Mount{Source: path.Join("/", m.Source), ReadOnly: m.ReadOnly, Mode: m.Mode, UID: m.UID, GID: m.GID}
	switch {
	case o != nil:
		src, ok := s.sourceOf(o)
		if !ok {
			return Mount{}, fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
		}
		out.From = src
	case m.Type == dockerfile.MountBind:
		out.From = Source{Context: s.p.main}
	}
	switch m.Type {
	case dockerfile.MountTmpfs:
		out.From, out.Source, out.Size = Source{}, "", m.SizeLimit
	case dockerfile.MountCache:
		out.Sharing = string(m.CacheSharing)
		if out.Sharing == "" {
			out.Sharing = "shared"
		}
		if out.CacheID = m.CacheID; out.CacheID == "" {
			out.CacheID = path.Clean(m.Target)
		}
		if ns := s.p.opts.CacheNamespace; ns != "" {
			out.CacheID = ns + "/" + out.CacheID
		}
		if out.From.IsScratch() && out.Source == "/" {
			out.CacheID += cacheOwner(m)
		}
	}
	out.Target = m.Target
	if !path.IsAbs(m.Target) {
		out.Target = path.Join(s.dir(), m.Target)
	}
	out.Target = path.Clean(out.Target)
	return out, nil
}

// cacheOwner is what a cache mount's mode and owner add to its id: each of them has a directory of its own, as in BuildKit.
func cacheOwner(m *dockerfile.Mount) string {
	if m.Mode == nil && m.UID == nil && m.GID == nil {
		return ""
	}
	mode, uid, gid := uint64(0o755), uint64(0), uint64(0)
	for _, f := range []struct{ to, from *uint64 }{{&mode, m.Mode}, {&uid, m.UID}, {&gid, m.GID}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	return fmt.Sprintf(",uid=%d,gid=%d,mode=%04o", uid, gid, mode)
}

// secretMount plans a secret: a file, a variable, or both.
func secretMount(m *dockerfile.Mount) (Mount, error) {
	out := Mount{ID: m.CacheID, Required: m.Required, ReadOnly: true}
	if m.Source != "" {
		out.ID = m.Source
	}
	if out.ID == "" {
		if m.Target == "" {
			return Mount{}, errors.New("one of source, target required")
		}
		out.ID = path.Base(m.Target)
	}
	if m.Env != nil {
		if *m.Env == "" {
			return Mount{}, errors.New("secret mount with an empty env")
		}
		out.Env = *m.Env
	}
	switch {
	case m.Target != "":
		out.Target = path.Join("/", m.Target)
	case m.Env == nil:
		out.Target = "/run/secrets/" + path.Base(out.ID)
	}
	setOwner(&out, m, secretMode)
	return out, nil
}

// sshMount plans the socket of an SSH agent, the index-th of its RUN.
func sshMount(m *dockerfile.Mount, index int) (Mount, error) {
	if m.Source != "" {
		return Mount{}, errors.New("ssh does not support source")
	}
	out := Mount{ID: m.CacheID, Required: m.Required, ReadOnly: true, Target: fmt.Sprintf("/run/buildkit/ssh_agent.%d", index)}
	if out.ID == "" {
		out.ID = "default"
	}
	if m.Target != "" {
		out.Target = path.Join("/", m.Target)
	}
	setOwner(&out, m, sshMode)
	return out, nil
}

// setOwner fills in who owns a secret's file or an agent's socket: root, unless said otherwise.
func setOwner(out *Mount, m *dockerfile.Mount, mode uint64) {
	out.UID, out.GID, out.Mode = m.UID, m.GID, m.Mode
	if out.UID == nil {
		out.UID = new(uint64)
	}
	if out.GID == nil {
		out.GID = new(uint64)
	}
	if out.Mode == nil {
		out.Mode = &mode
	}
}

// sourceOf is where an origin's files are, false if it is a stage that has not been planned before this one.
func (s *stage) sourceOf(o *origin) (Source, bool) {
	if o.stage == nil {
		return o.root.source, true
	}
	if o.stage.index >= s.index {
		return Source{}, false
	}
	if o.stage.replaced {
		return o.stage.out.Base, true
	}
	return Source{Stage: o.stage.out}, true
}
