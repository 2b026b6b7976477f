package runc

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/sandbox"
	"golang.org/x/sys/unix"
)

// defaultShmSize is the size of /dev/shm, as docker has it.
const defaultShmSize = 64 << 20

// ttyGroup is the group to which distributions give terminals.
const ttyGroup = 5

// makeDev mounts a new /dev with everything in it, to be bound into the container as one. It belongs to this run: a
// process may make, move and remove whatever it likes there. libcontainer could make it as well, with a thousand system
// calls more: it must distrust every path it walks, while this tree is nobody else's yet.
func (r *run) makeDev(nodev int) (string, error) {
	dev, err := r.mountDir("dev", "tmpfs", "tmpfs", uintptr(unix.MS_NOSUID|unix.MS_STRICTATIME|nodev), "mode=755,size=65536k")
	if err != nil {
		return "", err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		// Bound, not made: a user namespace may not make them, and on a nodev mount they would not work.
		p := filepath.Join(dev, name)
		if err := unix.Mknod(p, unix.S_IFREG|0o644, 0); err != nil {
			return "", &os.PathError{Op: "mknod", Path: p, Err: err}
		}
		if err := unix.Mount("/dev/"+name, p, "", unix.MS_BIND, ""); err != nil {
			return "", &os.PathError{Op: "bind", Path: "/dev/" + name, Err: err}
		}
	}
	links := [][2]string{
		{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	}
	if exists("/proc/kcore") {
		links = append(links, [2]string{"/proc/kcore", "core"})
	}
	for _, l := range links {
		err = errors.Join(err, os.Symlink(l[0], filepath.Join(dev, l[1])))
	}
	for _, d := range []string{"pts", "shm", "mqueue"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(dev, d), 0o755), os.Chmod(filepath.Join(dev, d), 0o755))
	}
	if err != nil {
		return "", err
	}
	pts := "newinstance,ptmxmode=0666,mode=0620"
	if sandbox.Contains(r.place.GIDs, ttyGroup) {
		pts += ",gid=5"
	}
	if err := unix.Mount("devpts", filepath.Join(dev, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, pts); err != nil {
		return "", fmt.Errorf("mounting terminals: %w", err)
	}
	if err := r.mountShm(filepath.Join(dev, "shm"), nodev); err != nil {
		return "", fmt.Errorf("mounting shared memory: %w", err)
	}
	return dev, nil
}

// mountShm mounts /dev/shm with the options that BuildKit's has: docker's, or where a size was asked for those of a --mount=type=tmpfs.
func (r *run) mountShm(at string, nodev int) error {
	if slices.ContainsFunc(r.spec.Mounts, func(m executor.Mount) bool { return path.Clean(m.Target) == "/dev/shm" }) {
		return nil
	}
	if r.spec.ShmSize == 0 {
		return unix.Mount("shm", at, "tmpfs", noSuidExecDev, fmt.Sprintf("mode=1777,size=%d", defaultShmSize))
	}
	return unix.Mount("tmpfs", at, "tmpfs", uintptr(unix.MS_NOSUID|nodev), fmt.Sprintf("mode=1777,size=%d", r.spec.ShmSize))
}
