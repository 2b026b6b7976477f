package ladder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/userns"
	"golang.org/x/sys/unix"
)

// minState is how much room a file system must have, in bytes, for state to be moved there: an image or two.
const minState = 1 << 30

// State says where state is to live.
type State struct {
	// Usual is the usual directory, "" where the environment names none. Temp is that for temporary files.
	Usual, Temp string
	// Avoid are directories into which state must not get, such as the build's context.
	Avoid []string
}

// StateDir returns the directory for state: the usual one, unless it cannot be made or lies on an overlay file system, which is
// what a container's own files are. One overlay cannot hold the upper directory of another, and nothing in it outlives the container. Then a
// volume is looked for among what is mounted here and, failing that, the usual directory is taken again, or one for temporary files. moved says why it
// is not the usual one.
func StateDir(s State) (dir, moved string) {
	name := "cairn-" + strconv.Itoa(owner())
	reason := ""
	switch {
	case s.Usual == "":
		reason = "neither XDG_DATA_HOME nor HOME is set"
	case os.MkdirAll(s.Usual, 0o700) != nil || unix.Access(s.Usual, unix.W_OK) != nil:
		reason = s.Usual + " cannot be written"
	case onOverlay(s.Usual):
		reason = s.Usual + " is on an overlay file system, which cannot hold the changes of another one"
	default:
		return s.Usual, ""
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, m := range volumes(string(mounts)) {
		if slices.ContainsFunc(s.Avoid, func(a string) bool { return within(m, a) || sameDir(m, a) }) || !roomy(m) {
			continue
		}
		dir := filepath.Join(m, "."+name)
		if err := os.Mkdir(dir, 0o700); err == nil || errors.Is(err, fs.ErrExist) && unix.Access(dir, unix.W_OK) == nil {
			return dir, fmt.Sprintf("state is kept in %s: %s", dir, reason)
		}
	}
	if s.Usual != "" && unix.Access(s.Usual, unix.W_OK) == nil {
		return s.Usual, ""
	}
	dir = filepath.Join(s.Temp, name)
	return dir, fmt.Sprintf("state is kept in %s: %s", dir, reason)
}

// owner is the user id that the program was started with, seen from outside the user namespace it has entered.
func owner() int {
	mode, inside := userns.Current()
	if !inside || mode.Map == userns.NoMap {
		return os.Geteuid()
	}
	b, _ := os.ReadFile("/proc/self/uid_map")
	var in, out, count int
	if _, err := fmt.Sscan(string(b), &in, &out, &count); err != nil || in != 0 {
		return os.Geteuid()
	}
	return out
}

// onOverlay reports whether a directory, or what there is of the path to it, lies on an overlay file system.
func onOverlay(path string) bool {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(path, &st)
		if err == nil {
			return st.Type == unix.OVERLAYFS_SUPER_MAGIC
		}
		if path == "/" || path == "." {
			return false
		}
		path = filepath.Dir(path)
	}
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// sameDir reports whether two paths lead to one directory.
func sameDir(a, b string) bool {
	fa, errA := os.Stat(a)
	fb, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(fa, fb)
}

// roomy reports whether state may be put below a directory.
func roomy(dir string) bool {
	var st unix.Statfs_t
	return unix.Access(dir, unix.W_OK|unix.X_OK) == nil && unix.Statfs(dir, &st) == nil && st.Bavail*uint64(st.Bsize) >= minState
}

// upperTypes are file systems that can hold the changes of an overlay, in the order in which they are taken; tmpfs is memory.
func upperTypes() []string {
	return []string{"ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "tmpfs"}
}

// volumes lists the mount points in a mountinfo (proc_pid_mountinfo(5)) that may be written and can hold an upper directory.
func volumes(mountinfo string) []string {
	type volume struct {
		dir  string
		rank int
	}
	var found []volume
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 1 {
			continue
		}
		dir, options, rank := unescape(f[4]), strings.Split(f[5], ","), slices.Index(upperTypes(), g[0])
		if rank < 0 || slices.Contains(options, "ro") || within(dir, "/proc") || within(dir, "/sys") || within(dir, "/dev") || within(dir, "/etc") ||
			within(dir, "/run/secrets") || within(dir, "/var/run/secrets") {
			continue
		}
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			found = append(found, volume{dir, rank})
		}
	}
	slices.SortStableFunc(found, func(a, b volume) int { return a.rank - b.rank })
	dirs := make([]string, len(found))
	for i, v := range found {
		dirs[i] = v.dir
	}
	return dirs
}

// unescape undoes what the kernel does to spaces in its tables.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
