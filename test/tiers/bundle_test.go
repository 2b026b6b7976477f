package tiers

import (
	"os"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// commonProfile is podman's seccomp profile, as Debian has it.
const commonProfile = "/usr/share/containers/seccomp.json"

// config is a container for the OCI runtime, as platforms make it: what is masked, what may be written, which system calls there are. Only the network is
// the machine's, where the tests' registry is.
func (r tier) config(args, env []string, binds map[string]string) (*specs.Spec, error) {
	gid, effective := r.gid, r.caps
	if r.uid != 0 {
		effective = nil // an execve by somebody else than root loses them
	}
	c := &specs.Spec{
		Version:  "1.0.2",
		Hostname: "ci",
		Root:     &specs.Root{Path: "rootfs"},
		Mounts:   r.mounts(binds),
		Process: &specs.Process{
			User: specs.User{UID: uint32(r.uid), GID: uint32(gid)}, Args: args, Env: env, Cwd: volume, NoNewPrivileges: r.noNewPrivs,
			Capabilities: &specs.LinuxCapabilities{Bounding: r.caps, Effective: effective, Permitted: effective},
		},
		Linux: &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}},
			UIDMappings: r.mappings(), GIDMappings: r.mappings(),
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
				{Access: "rwm"}, {Allow: true, Type: "c", Access: "m"}, {Allow: true, Type: "b", Access: "m"},
			}},
		},
	}
	if r.shifted {
		c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	if !r.unmasked {
		c.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/scsi",
			"/proc/timer_list", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap"}
		c.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	var err error
	c.Linux.Seccomp, err = r.seccomp()
	return c, err
}

// volume is where a container has a volume of its own.
const volume = "/vol"

func (r tier) mounts(binds map[string]string) []specs.Mount {
	// A new sysfs belongs to who owns the network, which is the machine's.
	sys := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
	if r.shifted {
		sys = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		sys,
	}
	for target, source := range binds {
		access := "ro"
		if target == volume {
			access = "rw"
		}
		mounts = append(mounts, specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"bind", access}})
	}
	return mounts
}

// seccomp is the tier's profile, as far as it holds for its capabilities; nil is none.
func (r tier) seccomp() (*specs.LinuxSeccomp, error) {
	caps := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: r.caps}}}
	var p *specs.LinuxSeccomp
	var err error
	switch r.profile {
	case docker:
		p, err = seccomp.GetDefaultProfile(caps)
	case common, crio:
		var text []byte
		if text, err = os.ReadFile(commonProfile); err == nil {
			p, err = seccomp.LoadProfile(string(text), caps)
		}
	case unconfined:
		if r.denyMounts {
			p = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}}
		}
	}
	if err != nil || p == nil {
		return nil, err
	}
	if r.profile == crio {
		for i := range p.Syscalls {
			p.Syscalls[i].Names = without(p.Syscalls[i].Names, "unshare")
		}
	}
	if r.denyMounts {
		denied := uint(13) // EACCES
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Action: specs.ActErrno, ErrnoRet: &denied, Names: []string{
			"mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsmount", "mount_setattr"}})
	}
	return p, nil
}

func without(names []string, name string) []string {
	var out []string
	for _, n := range names {
		if n != name {
			out = append(out, n)
		}
	}
	return out
}
