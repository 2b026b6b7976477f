// Package sandbox is what the executors share that work with mount and pid namespaces, inside the place that pkg/userns makes: what can be had
// there, mount points in a root filesystem, the streams of a process and its end, what is hidden from it and which system calls it may make.
package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/moby/sys/capability"
	"github.com/moby/sys/user"
	mobyuserns "github.com/moby/sys/userns"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/process"
	"github.com/cairn-build/cairn/pkg/userns"
)

// Place is what can be had where this process runs.
type Place struct {
	// UserNS means that the kernel itself keeps devices and the rest of the machine away from root.
	UserNS bool
	// SharedProc means that no new /proc can be mounted, as in most containers: processes see the one there is, and so share its pid
	// namespace. What they leave behind is ended by Wait instead of the kernel, and they can see and signal this program.
	SharedProc bool
	// Hostname means that a name can be given to a uts namespace: a container's filter may forbid it.
	Hostname bool
	// Cgroup2 means that there is one unified hierarchy to show, read-only.
	Cgroup2 bool
	// UIDs and GIDs are those that exist here; Setgroups means that supplementary ones can be set. Where an ordinary
	// user has a single id they cannot, and are left out.
	UIDs, GIDs []IDRange
	Setgroups  bool
	// Obstacle is why this place is not a better one.
	Obstacle string
	// MountSetattr means that a whole tree of mounts can be made read-only (Linux 5.12).
	MountSetattr bool
	// Caps are the capabilities that can be given to a process, by name, in the kernel's order.
	Caps []string
}

// Probe finds out where this process runs. It must be inside the place that userns.Enter makes.
func Probe() (Place, error) {
	p := Place{
		UserNS:       mobyuserns.RunningInUserNS(),
		Cgroup2:      cgroups.IsCgroup2UnifiedMode(),
		MountSetattr: unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) != unix.ENOSYS,
	}
	var err error
	if p.UIDs, err = readIDs("/proc/self/uid_map"); err != nil {
		return Place{}, err
	}
	if p.GIDs, err = readIDs("/proc/self/gid_map"); err != nil {
		return Place{}, err
	}
	setgroups, err := os.ReadFile("/proc/self/setgroups")
	p.Setgroups = err != nil || strings.TrimSpace(string(setgroups)) != "deny"
	m, _ := userns.Current()
	p.Obstacle = m.Obstacle
	p.UserNS = p.UserNS || m.Map != userns.NoMap
	p.SharedProc = !m.PID
	// userns.Enter has made a uts namespace: the name may be set to what it is.
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		p.Hostname = unix.Sethostname(name.Nodename[:bytes.IndexByte(name.Nodename[:], 0)]) == nil
	}
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	if err != nil {
		return Place{}, fmt.Errorf("reading this process's capabilities: %w", err)
	}
	for _, c := range capability.ListKnown() {
		if own.Get(capability.PERMITTED, c) && own.Get(capability.BOUNDING, c) {
			p.Caps = append(p.Caps, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return p, nil
}

// IDRange is Count ids from First on.
type IDRange struct{ First, Count uint64 }

// readIDs lists the ids of a user namespace, from its uid_map or gid_map.
func readIDs(path string) ([]IDRange, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the id map: %w", err)
	}
	var ids []IDRange
	for line := range strings.Lines(string(b)) {
		var r IDRange
		var outside uint64
		if _, err := fmt.Sscan(line, &r.First, &outside, &r.Count); err != nil {
			return nil, fmt.Errorf("reading the id map %s: %w", path, err)
		}
		ids = append(ids, r)
	}
	return ids, nil
}

// Contains reports whether an id exists in one of the ranges.
func Contains(ids []IDRange, id int) bool {
	return slices.ContainsFunc(ids, func(r IDRange) bool { return uint64(id) >= r.First && uint64(id)-r.First < r.Count })
}

// HostnameOf is the host name to set for a Spec, "" where none can be set. That is an error if the Spec asks for one.
func (p Place) HostnameOf(spec executor.Spec) (string, error) {
	switch {
	case p.Hostname:
		return process.Hostname(spec), nil
	case spec.Hostname != "":
		return "", fmt.Errorf("running %q as host %q: the container around this process does not allow to set a host name",
			spec.Process.Args[0], spec.Hostname)
	}
	return "", nil
}

// CheckUser refuses a user or group that does not exist in this place.
func (p Place) CheckUser(u *user.ExecUser) error {
	if !Contains(p.UIDs, u.Uid) {
		return hint.With(fmt.Errorf("running as uid %d: it is not among the ids that can be used here", u.Uid), p.Obstacle)
	}
	for _, g := range append([]int{u.Gid}, u.Sgids...) {
		if !Contains(p.GIDs, g) && (p.Setgroups || g == u.Gid) {
			return hint.With(fmt.Errorf("running with gid %d: it is not among the ids that can be used here", g), p.Obstacle)
		}
	}
	return nil
}
