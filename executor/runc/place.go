package runc

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/moby/sys/user"
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
	// uids and gids are those that exist here; setgroups means that supplementary ones can be set. Where an ordinary
	// user has a single id they cannot, and are left out.
	uids, gids []idRange
	setgroups  bool
	// obstacle is why this place is not a better one.
	obstacle string
	// mountSetattr means that a whole tree of mounts can be made read-only (Linux 5.12).
	mountSetattr bool
	// caps are the capabilities that can be given to a process, by name, in the kernel's order.
	caps []string
}

func probe() (place, error) {
	p := place{
		userNS:       mobyuserns.RunningInUserNS(),
		cgroup2:      cgroups.IsCgroup2UnifiedMode(),
		mountSetattr: unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) != unix.ENOSYS,
	}
	var err error
	if p.uids, err = readIDs("/proc/self/uid_map"); err != nil {
		return place{}, err
	}
	if p.gids, err = readIDs("/proc/self/gid_map"); err != nil {
		return place{}, err
	}
	setgroups, err := os.ReadFile("/proc/self/setgroups")
	p.setgroups = err != nil || strings.TrimSpace(string(setgroups)) != "deny"
	m, _ := userns.Current()
	p.obstacle = m.Obstacle
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

// idRange is count ids from first on.
type idRange struct{ first, count uint64 }

// readIDs lists the ids of a user namespace, from its uid_map or gid_map.
func readIDs(path string) ([]idRange, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the id map: %w", err)
	}
	var ids []idRange
	for line := range strings.Lines(string(b)) {
		var r idRange
		var outside uint64
		if _, err := fmt.Sscan(line, &r.first, &outside, &r.count); err != nil {
			return nil, fmt.Errorf("reading the id map %s: %w", path, err)
		}
		ids = append(ids, r)
	}
	return ids, nil
}

func contains(ids []idRange, id int) bool {
	return slices.ContainsFunc(ids, func(r idRange) bool { return uint64(id) >= r.first && uint64(id)-r.first < r.count })
}

// checkUser refuses a user or group that does not exist in this place.
func (p place) checkUser(u *user.ExecUser) error {
	hint := ""
	if p.obstacle != "" {
		hint = "\nhint: " + p.obstacle
	}
	if !contains(p.uids, u.Uid) {
		return fmt.Errorf("running as uid %d: it is not among the ids that can be used here%s", u.Uid, hint)
	}
	for _, g := range append([]int{u.Gid}, u.Sgids...) {
		if !contains(p.gids, g) && (p.setgroups || g == u.Gid) {
			return fmt.Errorf("running with gid %d: it is not among the ids that can be used here%s", g, hint)
		}
	}
	return nil
}
