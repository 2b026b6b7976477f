package runc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	mobyseccomp "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// syncCalls write to disk what nobody will look for there: they succeed at once.
func syncCalls() []string {
	return []string{"fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "sync_file_range2", "arm_sync_file_range"}
}

// seccompFor returns docker's default profile, as far as it holds for these capabilities.
func (e *Executor) seccompFor(caps []string) (*configs.Seccomp, error) {
	if !seccomp.Enabled {
		return nil, errors.New("preparing the seccomp filter: this program was built without it, and no process is run " +
			"unfiltered (hint: build with -tags seccomp and libseccomp)")
	}
	key := strings.Join(caps, ",")
	if cfg, ok := e.seccomp.Load(key); ok {
		return cfg.(*configs.Seccomp), nil
	}
	profile, err := mobyseccomp.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the seccomp filter: %w", err)
	}
	if !e.syncs {
		dropSyncs(profile)
	}
	// The profile also allows the x32 ABI of amd64, which hardly any kernel has. libseccomp takes as long for it as for
	// everything else together, at every start.
	profile.Architectures = slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	cfg, err := specconv.SetupSeccomp(profile)
	if err != nil {
		return nil, fmt.Errorf("preparing the seccomp filter: %w", err)
	}
	e.seccomp.Store(key, cfg)
	return cfg, nil
}

// dropSyncs has the filter answer syncs with the error 0.
func dropSyncs(profile *specs.LinuxSeccomp) {
	for i, s := range profile.Syscalls {
		profile.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(s.Names), func(n string) bool { return slices.Contains(syncCalls(), n) })
	}
	success := uint(0)
	profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: syncCalls(), Action: specs.ActErrno, ErrnoRet: &success})
}
