package runc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/process"
	"github.com/cairn-build/cairn/executor/sandbox"
)

const (
	noSuidExecDev = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
)

// config translates the Spec. It makes what has to exist in the root filesystem before libcontainer starts.
func (r *run) config() (*configs.Config, error) {
	hostname, err := r.place.HostnameOf(r.spec)
	if err != nil {
		return nil, err
	}
	insecure := r.spec.Security == executor.SecurityInsecure
	rootfs, err := r.rootfs(insecure)
	if err != nil {
		return nil, err
	}
	cfg := &configs.Config{
		Rootfs:          rootfs,
		Hostname:        hostname,
		RootlessCgroups: true,
		Cgroups:         &cgroups.Cgroup{Name: filepath.Base(r.dir), Rootless: true, Resources: &cgroups.Resources{}},
		Namespaces: configs.Namespaces{
			{Type: configs.NEWNS}, {Type: configs.NEWIPC}, {Type: configs.NEWUTS},
		},
		Capabilities: r.capabilities(insecure),
	}
	if !r.place.SharedProc {
		cfg.Namespaces = append(cfg.Namespaces, configs.Namespace{Type: configs.NEWPID})
	}
	if r.place.Cgroup2 {
		cfg.Namespaces = append(cfg.Namespaces, configs.Namespace{Type: configs.NEWCGROUP})
	}
	if r.spec.Network == executor.NetworkNone {
		cfg.Namespaces = append(cfg.Namespaces, configs.Namespace{Type: configs.NEWNET})
		cfg.Networks = []*configs.Network{{Type: "loopback"}}
	}
	if !insecure {
		cfg.MaskPaths, cfg.ReadonlyPaths = sandbox.MaskedPaths(), sandbox.ReadonlyPaths()
		if cfg.Seccomp, err = r.seccompFor(cfg.Capabilities.Bounding); err != nil {
			return nil, err
		}
	}
	if cfg.Mounts, err = r.mounts(insecure); err != nil {
		return nil, err
	}
	return cfg, nil
}

// capabilities are the bounding, permitted and effective set; none is inheritable or ambient (CVE-2022-24769).
func (r *run) capabilities(insecure bool) *configs.Capabilities {
	caps := slices.Clone(r.place.Caps)
	if !insecure {
		want := sandbox.DefaultCapabilities()
		caps = slices.DeleteFunc(caps, func(c string) bool { return !slices.Contains(want, c) })
	}
	return &configs.Capabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// rootfs returns the directory to use as root. Where no user namespace keeps root from the machine's devices, it is a
// nodev mount of the one given: CAP_MKNOD is among docker's capabilities, and nobody else stops `mknod b 8 0`.
func (r *run) rootfs(insecure bool) (string, error) {
	if r.place.UserNS || insecure {
		return r.rootPath, nil
	}
	dir, err := r.mountDir("root", r.rootPath, "", unix.MS_BIND|unix.MS_REC, "")
	if err != nil {
		return "", fmt.Errorf("mounting the root filesystem: %w", err)
	}
	if r.place.MountSetattr {
		err = unix.MountSetattr(-1, dir, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV})
	} else {
		err = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NODEV, "")
	}
	if err != nil {
		return "", fmt.Errorf("mounting the root filesystem without devices: %w", err)
	}
	return dir, nil
}

// mountDir mounts something on a new directory of this run, until it is cleaned up.
func (r *run) mountDir(name, source, fstype string, flags uintptr, data string) (string, error) {
	dir := filepath.Join(r.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount(source, dir, fstype, flags, data); err != nil {
		return "", os.NewSyscallError("mount", err)
	}
	r.mounted = append(r.mounted, dir)
	return dir, nil
}

// mounts lists everything that is mounted, in order, and prepares the mount points.
func (r *run) mounts(insecure bool) ([]*configs.Mount, error) {
	var nodev int
	if !r.place.UserNS && !insecure {
		nodev = unix.MS_NODEV
	}
	dev, err := r.makeDev(nodev)
	if err != nil {
		return nil, fmt.Errorf("preparing /dev: %w", err)
	}
	proc := &configs.Mount{Device: "proc", Source: "proc", Destination: "/proc", Flags: noSuidExecDev}
	if r.place.SharedProc {
		proc = &configs.Mount{Device: "bind", Source: "/proc", Destination: "/proc", Flags: unix.MS_BIND | unix.MS_REC | noSuidExecDev}
	}
	list := []*configs.Mount{
		proc,
		{Device: "bind", Source: dev, Destination: "/dev", Flags: unix.MS_BIND | unix.MS_REC},
		{Device: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Flags: noSuidExecDev},
	}
	list = append(list, r.sysMounts(insecure)...)
	for _, dir := range []string{"/proc", "/dev", "/sys"} {
		if err := r.points.System(dir); err != nil {
			return nil, err
		}
	}
	covered := []string{"/proc", "/dev", "/sys"}

	files, err := r.etcFiles()
	if err != nil {
		return nil, err
	}
	for _, m := range slices.Concat(files, r.spec.Mounts) {
		cm, err := r.mount(m, nodev, covered)
		if err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.Target, err)
		}
		covered = append(covered, cm.Destination)
		list = append(list, cm)
	}
	return list, nil
}

// sysMounts are /sys and what is below it. In a user namespace, sysfs can be mounted only together with a network
// namespace of its own; the machine's is shown instead, read-only throughout.
func (r *run) sysMounts(insecure bool) []*configs.Mount {
	ro := unix.MS_RDONLY
	if insecure {
		ro = 0
	}
	sys := &configs.Mount{Device: "sysfs", Source: "sysfs", Destination: "/sys", Flags: noSuidExecDev | ro}
	bound := r.place.UserNS && r.spec.Network != executor.NetworkNone
	if bound {
		sys = &configs.Mount{Device: "bind", Source: "/sys", Destination: "/sys", Flags: unix.MS_BIND | unix.MS_REC | noSuidExecDev | unix.MS_RDONLY}
		if r.place.MountSetattr {
			sys.RecAttr = &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		}
	}
	mounts := []*configs.Mount{sys}
	switch {
	case r.place.Cgroup2:
		mounts = append(mounts, &configs.Mount{Device: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Flags: noSuidExecDev | ro})
	case bound && exists("/sys/fs/cgroup"):
		// The old hierarchies: nothing in them is ours (CVE-2023-25809).
		mounts = append(mounts, &configs.Mount{
			Device: "tmpfs", Source: "tmpfs", Destination: "/sys/fs/cgroup", Flags: noSuidExecDev | unix.MS_RDONLY, Data: "mode=755,size=4k",
		})
	}
	return mounts
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// etcFiles writes the files of /etc that are not the image's own, as BuildKit does; /etc/hostname stays the image's.
func (r *run) etcFiles() ([]executor.Mount, error) {
	// The network is the caller's, so its name server is reachable wherever it listens. Without the file there is none.
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("reading name servers: %w", err)
	}
	var mounts []executor.Mount
	for _, f := range []struct {
		name    string
		content []byte
	}{{"resolv.conf", resolv}, {"hosts", []byte(process.Hosts(r.spec))}} {
		path := filepath.Join(r.dir, f.name)
		if err := os.WriteFile(path, f.content, 0o644); err != nil {
			return nil, fmt.Errorf("preparing /etc/%s: %w", f.name, err)
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask
			return nil, fmt.Errorf("preparing /etc/%s: %w", f.name, err)
		}
		mounts = append(mounts, executor.Mount{Type: executor.Bind, Source: path, Target: "/etc/" + f.name, ReadOnly: true})
	}
	return mounts, nil
}

// mount translates one mount and prepares its mount point.
func (r *run) mount(m executor.Mount, nodev int, covered []string) (*configs.Mount, error) {
	if !filepath.IsAbs(m.Target) {
		return nil, fmt.Errorf("target is not absolute")
	}
	var ro int
	if m.ReadOnly {
		ro = unix.MS_RDONLY
	}
	switch m.Type {
	case executor.Bind:
		if !filepath.IsAbs(m.Source) {
			return nil, fmt.Errorf("source %q is not absolute", m.Source)
		}
		st, err := os.Stat(m.Source)
		if err != nil {
			return nil, err
		}
		target, err := r.points.Target(m.Target, st.IsDir(), covered)
		if err != nil {
			return nil, err
		}
		return &configs.Mount{Device: "bind", Source: m.Source, Destination: target, Flags: unix.MS_BIND | unix.MS_REC | ro | nodev}, nil
	case executor.Tmpfs:
		target, err := r.points.Target(m.Target, true, covered)
		if err != nil {
			return nil, err
		}
		mode := m.Mode
		if mode == 0 {
			mode = 0o1777
		}
		data := fmt.Sprintf("mode=%o", mode)
		if m.Size > 0 {
			data += fmt.Sprintf(",size=%d", m.Size)
		}
		return &configs.Mount{Device: "tmpfs", Source: "tmpfs", Destination: target, Flags: unix.MS_NOSUID | nodev | ro, Data: data}, nil
	}
	return nil, fmt.Errorf("unknown kind of mount %q", m.Type)
}
