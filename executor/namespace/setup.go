package namespace

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/process"
	"github.com/cairn-build/cairn/executor/sandbox"
)

const (
	noSuidExecDev = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	// defaultShmSize is the size of /dev/shm, as docker has it; ttyGroup the group to which distributions give terminals.
	defaultShmSize = 64 << 20
	ttyGroup       = 5

	sizeofMountAttr = int(unsafe.Sizeof(unix.MountAttr{}))
	sizeofOpenHow   = int(unsafe.Sizeof(unix.OpenHow{}))
)

// mount adds a mount(2) of something that is this run's alone: the target's path is relative to the root filesystem and has been looked at, or
// lies below a mount made here.
func (p *program) mount(source, target, fstype string, flags int, data string) *op {
	what := "mounting /" + target
	d := num(0)
	if data != "" {
		d = p.str(data)
	}
	return p.call(what, unix.SYS_MOUNT, p.str(source), p.str(target), p.str(fstype), num(flags), d)
}

// attr is a struct mount_attr (mount_setattr(2)) that sets flags.
func (p *program) attr(flags int) value { return p.words(num(flags), num(0), num(0), num(0)) }

// setattr sets flags of a mount and of all below it.
func (p *program) setattr(what, target string, flags int) *op {
	return p.call(what, unix.SYS_MOUNT_SETATTR, cwd(), p.str(target), num(unix.AT_RECURSIVE), p.attr(flags), num(sizeofMountAttr))
}

// nodev is a mount flag where nobody but us keeps root from the machine's devices: CAP_MKNOD is among docker's capabilities.
func (r *run) nodev() int {
	if r.place.UserNS || r.insecure() {
		return 0
	}
	return unix.MS_NODEV
}

func (r *run) insecure() bool { return r.spec.Security == executor.SecurityInsecure }

// root makes the root filesystem a mount of its own and the working directory.
func (r *run) root(p *program) {
	p.call("making mounts private", unix.SYS_MOUNT, p.str(""), p.str("/"), num(0), num(unix.MS_REC|unix.MS_PRIVATE), num(0))
	root := p.str(r.rootPath)
	p.call("mounting the root filesystem", unix.SYS_MOUNT, root, root, num(0), num(unix.MS_BIND|unix.MS_REC), num(0))
	if r.nodev() != 0 {
		p.setattr("mounting the root filesystem without devices", r.rootPath, unix.MOUNT_ATTR_NODEV)
	}
	p.call("opening the root filesystem", unix.SYS_OPENAT, cwd(), root, num(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), num(0)).keep = regRoot
	p.call("entering the root filesystem", unix.SYS_FCHDIR, regRoot.value())
}

// system mounts /proc, /dev and /sys, and hides and protects what belongs to the machine. Nothing in them is anybody else's yet, so
// paths do.
func (r *run) system(p *program) error {
	for _, dir := range []string{"/proc", "/dev", "/sys"} {
		if err := r.points.System(dir); err != nil {
			return err
		}
	}
	if r.place.SharedProc {
		p.mount("/proc", "proc", "", unix.MS_BIND|unix.MS_REC, "")
		p.setattr("protecting /proc", "proc", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	} else {
		p.mount("proc", "proc", "proc", noSuidExecDev, "")
	}
	r.dev(p)
	r.sys(p)
	if r.insecure() {
		return nil
	}
	for _, name := range sandbox.MaskedPaths() {
		name = name[1:]
		// A file; if it is none, a directory.
		o := p.mount("/dev/null", name, "", unix.MS_BIND, "")
		o.except, o.onError, o.onSuccess = uint8(unix.ENOENT), 1, 2
		p.mount("tmpfs", name, "tmpfs", unix.MS_RDONLY, "mode=555,size=4k").except = uint8(unix.ENOENT)
	}
	for _, name := range sandbox.ReadonlyPaths() {
		name = name[1:]
		p.mount(name, name, "", unix.MS_BIND|unix.MS_REC, "").except = uint8(unix.ENOENT)
		p.setattr("protecting /"+name, name, unix.MOUNT_ATTR_RDONLY).except = uint8(unix.ENOENT)
	}
	return nil
}

// dev mounts a new /dev. It belongs to this run: a process may make, move and remove whatever it likes there.
func (r *run) dev(p *program) {
	p.mount("tmpfs", "dev", "tmpfs", unix.MS_NOSUID|unix.MS_STRICTATIME|r.nodev(), "mode=755,size=65536k")
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		// Bound, not made: a user namespace may not make them, and on a nodev mount they would not work.
		p.call("making /dev/"+name, unix.SYS_MKNODAT, cwd(), p.str("dev/"+name), num(unix.S_IFREG|0o644), num(0))
		p.mount("/dev/"+name, "dev/"+name, "", unix.MS_BIND, "")
	}
	links := [][2]string{
		{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	}
	if r.kcore {
		links = append(links, [2]string{"/proc/kcore", "core"})
	}
	for _, l := range links {
		p.call("making /dev/"+l[1], unix.SYS_SYMLINKAT, p.str(l[0]), cwd(), p.str("dev/"+l[1]))
	}
	for _, d := range []string{"pts", "shm", "mqueue"} {
		p.call("making /dev/"+d, unix.SYS_MKDIRAT, cwd(), p.str("dev/"+d), num(0o755))
	}
	pts := "newinstance,ptmxmode=0666,mode=0620"
	if sandbox.Contains(r.place.GIDs, ttyGroup) {
		pts += ",gid=5"
	}
	p.mount("devpts", "dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, pts)
	p.mount("mqueue", "dev/mqueue", "mqueue", noSuidExecDev, "")
	switch {
	case slices.ContainsFunc(r.spec.Mounts, func(m executor.Mount) bool { return path.Clean(m.Target) == "/dev/shm" }):
	case r.spec.ShmSize == 0:
		p.mount("shm", "dev/shm", "tmpfs", noSuidExecDev, fmt.Sprintf("mode=1777,size=%d", defaultShmSize))
	default: // with the options of a --mount=type=tmpfs, as in BuildKit
		p.mount("tmpfs", "dev/shm", "tmpfs", unix.MS_NOSUID|r.nodev(), fmt.Sprintf("mode=1777,size=%d", r.spec.ShmSize))
	}
}

// sys mounts /sys and what is below it. In a user namespace, sysfs can be mounted only together with a network namespace of its own; the
// machine's is shown instead, read-only throughout.
func (r *run) sys(p *program) {
	ro := unix.MS_RDONLY
	if r.insecure() {
		ro = 0
	}
	bound := r.place.UserNS && r.spec.Network != executor.NetworkNone
	if bound {
		p.mount("/sys", "sys", "", unix.MS_BIND|unix.MS_REC, "")
		p.setattr("protecting /sys", "sys", unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	} else {
		p.mount("sysfs", "sys", "sysfs", noSuidExecDev|ro, "")
	}
	switch {
	case r.place.Cgroup2:
		p.mount("cgroup", "sys/fs/cgroup", "cgroup2", noSuidExecDev|ro, "")
	case bound:
		// The old hierarchies: nothing in them is ours (CVE-2023-25809).
		p.mount("tmpfs", "sys/fs/cgroup", "tmpfs", noSuidExecDev|unix.MS_RDONLY, "mode=755,size=4k").except = uint8(unix.ENOENT)
	}
}

// mounts mounts the files of /etc that are not the image's own, and what the Spec asks for.
func (r *run) mounts(p *program) error {
	resolv, err := os.ReadFile("/etc/resolv.conf")
	// Without the file there is no name server. The network is the caller's, so that the caller's is reachable.
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading name servers: %w", err)
	}
	covered := []string{"/proc", "/dev", "/sys"}
	for _, f := range [][2]string{{"/etc/resolv.conf", string(resolv)}, {"/etc/hosts", process.Hosts(r.spec)}} {
		source, err := r.file(f[1])
		if err != nil {
			return fmt.Errorf("preparing %s: %w", f[0], err)
		}
		m := executor.Mount{Type: executor.Bind, Source: source, Target: f[0], ReadOnly: true}
		if covered, err = r.mount(p, m, covered); err != nil {
			return fmt.Errorf("mounting %s: %w", f[0], err)
		}
	}
	for _, m := range r.spec.Mounts {
		if covered, err = r.mount(p, m, covered); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	return nil
}

// mount adds one mount, over a target that is looked up when it is mounted: without following any link, because the one in its way
// has been followed by MountPoints, and what somebody else puts there meanwhile must not be.
func (r *run) mount(p *program, m executor.Mount, covered []string) ([]string, error) {
	if !filepath.IsAbs(m.Target) {
		return nil, errors.New("target is not absolute")
	}
	isDir := true
	switch m.Type {
	case executor.Bind:
		if !filepath.IsAbs(m.Source) {
			return nil, fmt.Errorf("source %q is not absolute", m.Source)
		}
		st, err := os.Stat(m.Source)
		if err != nil {
			return nil, err
		}
		isDir = st.IsDir()
	case executor.Tmpfs:
	default:
		return nil, fmt.Errorf("unknown kind of mount %q", m.Type)
	}
	target, err := r.points.Target(m.Target, isDir, covered)
	if err != nil {
		return nil, err
	}
	if target == "/proc" || strings.HasPrefix(target, "/proc/") {
		return nil, errors.New("nothing can be mounted in /proc")
	}
	what := "mounting " + m.Target
	p.makeCovered(what, target, isDir, covered)
	if m.Type == executor.Bind {
		r.bindTree(p, what, m)
	} else {
		r.tmpfsTree(p, what, m)
	}
	p.lookUp(what, target, 0).keep = regTarget
	p.call(what, unix.SYS_MOVE_MOUNT, regTree.value(), p.str(""), regTarget.value(), p.str(""),
		num(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
	for _, reg := range []register{regTree, regTarget} {
		p.call(what, unix.SYS_CLOSE, reg.value())
	}
	if m.Owners != nil {
		r.owners[target] = m.Owners
	}
	return append(covered, target), nil
}

// lookUp opens (O_PATH) something in the root filesystem, with what is mounted in it.
func (p *program) lookUp(what, name string, flags int) *op {
	how := p.words(num(unix.O_PATH|unix.O_CLOEXEC|flags), num(0),
		num(unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS))
	return p.call(what, unix.SYS_OPENAT2, regRoot.value(), p.str(name), how, num(sizeofOpenHow))
}

// makeCovered makes what is missing of a target that lies in an earlier mount: there it is nobody's business to remove it.
func (p *program) makeCovered(what, target string, isDir bool, covered []string) {
	base := ""
	for _, c := range covered {
		if strings.HasPrefix(target, c+"/") && len(c) > len(base) {
			base = c
		}
	}
	if base == "" {
		return
	}
	names := strings.Split(target[len(base)+1:], "/")
	for i, name := range names {
		p.lookUp(what, base, unix.O_DIRECTORY).keep = regTarget
		var o *op
		if i < len(names)-1 || isDir {
			o = p.call(what, unix.SYS_MKDIRAT, regTarget.value(), p.str(name), num(0o755))
		} else {
			o = p.call(what, unix.SYS_MKNODAT, regTarget.value(), p.str(name), num(unix.S_IFREG|0o644), num(0))
		}
		o.except = uint8(unix.EEXIST)
		p.call(what, unix.SYS_CLOSE, regTarget.value())
		base = path.Join(base, name)
	}
}

func (r *run) bindTree(p *program, what string, m executor.Mount) {
	p.call(what, unix.SYS_OPEN_TREE, cwd(), p.str(m.Source), num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)).keep = regTree
	flags := 0
	if m.ReadOnly {
		flags |= unix.MOUNT_ATTR_RDONLY
	}
	if r.nodev() != 0 {
		flags |= unix.MOUNT_ATTR_NODEV
	}
	if flags != 0 {
		p.call(what, unix.SYS_MOUNT_SETATTR, regTree.value(), p.str(""), num(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE), p.attr(flags),
			num(sizeofMountAttr))
	}
}

func (r *run) tmpfsTree(p *program, what string, m executor.Mount) {
	p.call(what, unix.SYS_FSOPEN, p.str("tmpfs"), num(unix.FSOPEN_CLOEXEC)).keep = regTarget
	set := func(key, value string) {
		p.call(what, unix.SYS_FSCONFIG, regTarget.value(), num(unix.FSCONFIG_SET_STRING), p.str(key), p.str(value), num(0))
	}
	mode := m.Mode
	if mode == 0 {
		mode = 0o1777
	}
	set("source", "tmpfs")
	set("mode", fmt.Sprintf("%o", mode))
	if m.Size > 0 {
		set("size", fmt.Sprint(m.Size))
	}
	p.call(what, unix.SYS_FSCONFIG, regTarget.value(), num(unix.FSCONFIG_CMD_CREATE), num(0), num(0), num(0))
	flags := unix.MOUNT_ATTR_NOSUID
	if m.ReadOnly {
		flags |= unix.MOUNT_ATTR_RDONLY
	}
	if r.nodev() != 0 {
		flags |= unix.MOUNT_ATTR_NODEV
	}
	p.call(what, unix.SYS_FSMOUNT, regTarget.value(), num(unix.FSMOUNT_CLOEXEC), num(flags)).keep = regTree
	p.call(what, unix.SYS_CLOSE, regTarget.value())
}

// enter makes the root filesystem the root; nothing of the old one is left.
func (r *run) enter(p *program) {
	const what = "changing the root"
	p.call(what, unix.SYS_FCHDIR, regRoot.value())
	p.call(what, unix.SYS_PIVOT_ROOT, p.str("."), p.str("."))
	p.call(what, unix.SYS_UMOUNT2, p.str("."), num(unix.MNT_DETACH))
	p.call(what, unix.SYS_CHDIR, p.str("/"))
}
