package userns

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"

	"golang.org/x/sys/unix"
)

// extent is one line of a uid_map: count ids from inside on are the ids from outside on.
type extent struct{ inside, outside, count uint32 }

// idMaps are the two maps of a user namespace. The zero value is no user namespace.
type idMaps struct {
	uids, gids []extent
	// helper means that newuidmap and newgidmap write the maps; without it they are written by this process.
	helper bool
	// denySetgroups is what the kernel asks of an unprivileged process before it may write a gid_map.
	denySetgroups bool
}

// write gives the maps to the user namespace of a process.
func (m idMaps) write(pid int) error {
	if len(m.uids) == 0 {
		return nil
	}
	if m.helper {
		if err := runMapHelper("newuidmap", pid, m.uids); err != nil {
			return err
		}
		return runMapHelper("newgidmap", pid, m.gids)
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if m.denySetgroups {
		if err := os.WriteFile(filepath.Join(dir, "setgroups"), []byte("deny"), 0); err != nil {
			return fmt.Errorf("writing the id map: %w", err)
		}
	}
	for name, extents := range map[string][]extent{"uid_map": m.uids, "gid_map": m.gids} {
		var b bytes.Buffer
		for _, e := range extents {
			fmt.Fprintf(&b, "%d %d %d\n", e.inside, e.outside, e.count)
		}
		// The kernel takes a map in one write or not at all.
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0); err != nil {
			return fmt.Errorf("writing the id map: %w", err)
		}
	}
	return nil
}

// runMapHelper has a setuid helper of the uidmap package write one map.
func runMapHelper(name string, pid int, extents []extent) error {
	path, err := findHelper(name)
	if err != nil {
		return err
	}
	args := []string{strconv.Itoa(pid)}
	for _, e := range extents {
		for _, n := range []uint32{e.inside, e.outside, e.count} {
			args = append(args, strconv.FormatUint(uint64(n), 10))
		}
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		if text := strings.TrimSpace(string(out)); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return fmt.Errorf("writing the id map with %s: %w", path, err)
	}
	return nil
}

// findHelper looks in PATH and where distributions put setuid programs, since a service's PATH may be empty.
func findHelper(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil && filepath.IsAbs(p) {
		return p, nil
	}
	for _, dir := range []string{"/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"} {
		p := filepath.Join(dir, name)
		if unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", hint.With(fmt.Errorf("%s is not installed", name), "install the package uidmap or shadow-utils")
}

// singleMaps maps one user and one group to root.
func singleMaps(uid, gid int) idMaps {
	return idMaps{
		uids:          []extent{{0, uint32(uid), 1}},
		gids:          []extent{{0, uint32(gid), 1}},
		denySetgroups: true,
	}
}

// identityMaps maps every id that this process can see to itself.
func identityMaps() (idMaps, error) {
	uids, err := ownMap("/proc/self/uid_map")
	if err != nil {
		return idMaps{}, err
	}
	gids, err := ownMap("/proc/self/gid_map")
	if err != nil {
		return idMaps{}, err
	}
	return idMaps{uids: uids, gids: gids}, nil
}

func ownMap(path string) ([]extent, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the id map: %w", err)
	}
	var extents []extent
	for line := range strings.Lines(string(b)) {
		var e extent
		if _, err := fmt.Sscan(line, &e.inside, &e.outside, &e.count); err != nil {
			return nil, fmt.Errorf("reading the id map %s: %w", path, err)
		}
		extents = append(extents, extent{e.inside, e.inside, e.count})
	}
	return extents, nil
}

// subIDMaps maps a user and group to root and their subordinate ids, in the order of their files, to 1 and on.
func subIDMaps(uid, gid int) (idMaps, error) {
	for _, helper := range []string{"newuidmap", "newgidmap"} {
		if _, err := findHelper(helper); err != nil {
			return idMaps{}, err
		}
	}
	names := userNames(uid)
	uids, err := subIDs("/etc/subuid", uid, names)
	if err != nil {
		return idMaps{}, err
	}
	gids, err := subIDs("/etc/subgid", uid, names)
	if err != nil {
		return idMaps{}, err
	}
	return idMaps{
		uids:   append([]extent{{0, uint32(uid), 1}}, uids...),
		gids:   append([]extent{{0, uint32(gid), 1}}, gids...),
		helper: true,
	}, nil
}

// maxExtents is the kernel's limit of lines in one map (user_namespaces(7)), less the line of the user itself.
const maxExtents = 339

// subIDs reads the ranges of a user from a file of subuid(5)'s format: lines of "user:first:count", where the user is
// a name or a number. Both files go by the user, subgid too.
func subIDs(path string, uid int, names []string) ([]extent, error) {
	f, err := os.Open(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading subordinate ids: %w", err)
	}
	var extents []extent
	next := uint64(1)
	if err == nil {
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan() && len(extents) < maxExtents; {
			first, count, ok := parseSubID(sc.Text(), uid, names)
			if !ok || next+uint64(count) > 1<<32-1 {
				continue
			}
			extents = append(extents, extent{uint32(next), first, count})
			next += uint64(count)
		}
	}
	if len(extents) == 0 {
		return nil, hint.With(fmt.Errorf("%s has no range for uid %d", path, uid), addSubIDs(names))
	}
	return extents, nil
}

// addSubIDs is the command that gives a user, who has the first of names, ranges that nobody has yet.
func addSubIDs(names []string) string {
	user := "USER"
	if len(names) > 0 {
		user = names[0]
	}
	uids, gids := freeSubIDs("/etc/subuid"), freeSubIDs("/etc/subgid")
	return fmt.Sprintf("usermod --add-subuids %d-%d --add-subgids %d-%d %s", uids, uids+subIDCount-1, gids, gids+subIDCount-1, user)
}

// subIDCount is how many sub-ids a user is given: what images use, and what adduser gives.
const subIDCount = 65536

// freeSubIDs returns the first id beyond all that a file gives away.
func freeSubIDs(path string) uint64 {
	next := uint64(100000)
	data, _ := os.ReadFile(path)
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 {
			continue
		}
		first, errA := strconv.ParseUint(fields[1], 10, 32)
		count, errB := strconv.ParseUint(fields[2], 10, 32)
		if errA == nil && errB == nil {
			next = max(next, first+count)
		}
	}
	return next
}

func parseSubID(line string, uid int, names []string) (first, count uint32, ok bool) {
	fields := strings.Split(strings.TrimSpace(line), ":")
	if len(fields) != 3 {
		return 0, 0, false
	}
	mine := fields[0] == strconv.Itoa(uid)
	for _, n := range names {
		mine = mine || fields[0] == n
	}
	a, errA := strconv.ParseUint(fields[1], 10, 32)
	b, errB := strconv.ParseUint(fields[2], 10, 32)
	if !mine || errA != nil || errB != nil || b == 0 || a+b > 1<<32-1 {
		return 0, 0, false
	}
	return uint32(a), uint32(b), true
}

// userNames returns the names of a uid: those of /etc/passwd, else what the machine's name service says. None is fine:
// a container's user often has no name at all, and $USER may be anything.
func userNames(uid int) []string {
	var names []string
	if f, err := os.Open("/etc/passwd"); err == nil {
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			if fields := strings.Split(sc.Text(), ":"); len(fields) > 2 && fields[2] == strconv.Itoa(uid) {
				names = append(names, fields[0])
			}
		}
	}
	if len(names) > 0 {
		return names
	}
	if out, err := exec.Command("getent", "passwd", strconv.Itoa(uid)).Output(); err == nil {
		if name, _, ok := strings.Cut(string(out), ":"); ok && name != "" {
			names = append(names, name)
		}
	}
	return names
}
