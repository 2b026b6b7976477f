package runc

import (
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/capability"
	mobyuserns "github.com/moby/sys/userns"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/userns"
)

// place is what can be had where this process runs.
type place struct {
	// userNS means that the kernel itself keeps devices and the rest of the machine away from root.
	userNS bool
	// noPIDNamespace is why no container can have its own /proc, empty if it can.
	noPIDNamespace string
	// cgroup2 means that there is one unified hierarchy to show, read-only.
	cgroup2 bool
	// ttyGroup means that group 5, to which distributions give terminals, exists in the id map.
	ttyGroup bool
	// mountSetattr means that a whole tree of mounts can be made read-only (Linux 5.12).
	mountSetattr bool
	// caps are the capabilities that can be given to a process, by name, in the kernel's order.
	caps []string
}

func probe() (place, error) {
	p := place{
		userNS:       mobyuserns.RunningInUserNS(),
		cgroup2:      cgroups.IsCgroup2UnifiedMode(),
		ttyGroup:     mapsGroup(5),
		mountSetattr: unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) != unix.ENOSYS,
	}
	m, _ := userns.Current()
	p.userNS = p.userNS || m.Map != userns.NoMap
	if !m.PID {
		p.noPIDNamespace = m.Obstacle
	}
	if p.mountSetattr {
		// libcontainer makes and joins control groups wherever it can write. It has none of ours to manage, what it
		// makes would outlive a killed build, and one look at a read-only tree is cheaper than a dozen mkdirs.
		_ = unix.MountSetattr(-1, "/sys/fs/cgroup", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	if err != nil {
		return place{}, fmt.Errorf("reading this process's capabilities: %w", err)
	}
	for _, c := range capability.ListKnown() {
		if own.Get(capability.PERMITTED, c) && own.Get(capability.BOUNDING, c) {
			p.caps = append(p.caps, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return p, nil
}

// mapsGroup tells whether a group id exists in this user namespace.
func mapsGroup(gid uint64) bool {
	b, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		var inside, outside, count uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err == nil && gid >= inside && gid-inside < count {
			return true
		}
	}
	return false
}
