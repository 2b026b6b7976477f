package runc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"

	"github.com/cairn-build/cairn/executor/sandbox"
)

// seccompFor returns docker's default profile, as far as it holds for these capabilities.
func (e *Executor) seccompFor(caps []string) (*configs.Seccomp, error) {
	if !seccomp.Enabled {
		return nil, hint.With(errors.New("preparing the seccomp filter: this program was built without it, and no process is run unfiltered"),
			"build with -tags seccomp and libseccomp")
	}
	key := strings.Join(caps, ",")
	if cfg, ok := e.seccomp.Load(key); ok {
		return cfg.(*configs.Seccomp), nil
	}
	profile, err := sandbox.Profile(caps, e.syncs)
	if err != nil {
		return nil, err
	}
	cfg, err := specconv.SetupSeccomp(profile)
	if err != nil {
		return nil, fmt.Errorf("preparing the seccomp filter: %w", err)
	}
	e.seccomp.Store(key, cfg)
	return cfg, nil
}
