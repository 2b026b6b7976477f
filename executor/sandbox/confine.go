package sandbox

import (
	"fmt"
	"slices"

	mobyseccomp "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultCapabilities are docker's (moby, oci/caps/defaults.go).
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// MaskedPaths are hidden from a process, ReadonlyPaths cannot be written: containerd's defaults, which BuildKit uses.
func MaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

// ReadonlyPaths cannot be written: see MaskedPaths.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// syncCalls write to disk what nobody will look for there: they succeed at once.
func syncCalls() []string {
	return []string{"fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "sync_file_range2", "arm_sync_file_range"}
}

// Profile returns docker's default profile of system calls, as far as it holds for these capabilities. Without syncs, fsync and its kin are
// answered with success and not carried out.
func Profile(caps []string, syncs bool) (*specs.LinuxSeccomp, error) {
	profile, err := mobyseccomp.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the seccomp filter: %w", err)
	}
	if !syncs {
		dropSyncs(profile)
	}
	// The profile also allows the x32 ABI of amd64, which hardly any kernel has. libseccomp takes as long for it as for
	// everything else together, at every start.
	profile.Architectures = slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	return profile, nil
}

// dropSyncs has the filter answer syncs with the error 0.
func dropSyncs(profile *specs.LinuxSeccomp) {
	for i, s := range profile.Syscalls {
		profile.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(s.Names), func(n string) bool { return slices.Contains(syncCalls(), n) })
	}
	success := uint(0)
	profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: syncCalls(), Action: specs.ActErrno, ErrnoRet: &success})
}
