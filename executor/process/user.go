package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

const (
	// maxUserFile bounds /etc/passwd and /etc/group: they come with the image and are read into memory
	// (GHSA-72x6-4j93-7w86).
	maxUserFile = 1 << 20
	// MaxID is the largest user or group id. Larger numbers, cast to 32 bits somewhere, have become root
	// (CVE-2024-40635).
	MaxID = 1<<31 - 1
)

// LookupUser resolves a USER value in the root filesystem as docker does: "name", "uid", "name:group", "uid:gid", and
// "" for root. Without a group, the user's groups are all that /etc/group says; with one, it is the only one.
func LookupUser(root *os.File, spec string) (*user.ExecUser, error) {
	numeric, err := checkUserSpec(spec)
	if err != nil {
		return nil, err
	}
	passwd, err := readUserFile(root, "etc/passwd")
	if err != nil && !(numeric || spec == "") {
		return nil, fmt.Errorf("looking up user %q: %w", spec, err)
	}
	group, err := readUserFile(root, "etc/group")
	if err != nil && !(numeric || spec == "") {
		return nil, fmt.Errorf("looking up user %q: %w", spec, err)
	}
	defaults := &user.ExecUser{Home: "/"}
	if spec == "" {
		spec = "0"
		defaults.Home = "/root"
	}
	u, err := user.GetExecUser(spec, defaults, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return nil, err
	}
	for _, id := range append([]int{u.Uid, u.Gid}, u.Sgids...) {
		if id < 0 || id > MaxID {
			return nil, fmt.Errorf("looking up user %q: id %d is out of range", spec, id)
		}
	}
	return u, nil
}

// checkUserSpec refuses what a lenient parser of numbers would take for one, and tells whether the value consists of
// two numbers, which need no look-up.
func checkUserSpec(spec string) (numeric bool, err error) {
	if spec == "" {
		return false, nil
	}
	parts := strings.Split(spec, ":")
	if len(parts) > 2 || parts[0] == "" {
		return false, fmt.Errorf("looking up user %q: want user or user:group", spec)
	}
	numbers := 0
	for _, p := range parts {
		if strings.Trim(p, "0123456789") == "" && p != "" {
			if n, err := strconv.ParseUint(p, 10, 64); err != nil || n > MaxID {
				return false, fmt.Errorf("looking up user %q: id %s is out of range", spec, p)
			}
			numbers++
		} else if strings.HasPrefix(p, "+") || strings.HasPrefix(p, "-") {
			return false, fmt.Errorf("looking up user %q: %q is neither a name nor an id", spec, p)
		}
	}
	return numbers == 2, nil
}

// readUserFile reads a small regular file inside the root filesystem. A missing one is empty.
func readUserFile(root *os.File, path string) ([]byte, error) {
	// O_NONBLOCK: a FIFO there must not stop us before we can see that it is one.
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/" + path, Err: err}
	}
	f := os.NewFile(uintptr(fd), "/"+path)
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("/%s is not a regular file", path))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxUserFile {
		return nil, fmt.Errorf("/%s is larger than %d bytes", path, maxUserFile)
	}
	return b, nil
}
