package ptrace

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/process"
	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// prepare puts the job together: what is shown where, who runs, and what has to be made in the root filesystem to show things on.
func (r *run) prepare() error {
	name := r.spec.Process.Args[0]
	root, err := os.OpenFile(r.spec.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the root filesystem: %w", err)
	}
	defer root.Close()
	u, err := process.LookupUser(root, r.spec.Process.User)
	if err != nil {
		return err
	}
	limits, err := process.Rlimits(r.spec.Ulimits)
	if err != nil {
		return fmt.Errorf("running %q: %w", name, err)
	}
	env := process.Environment(r.spec.Process.Env, u.Home)
	dir := r.spec.Process.Dir
	if dir == "" {
		dir = "/"
	}
	r.job = job{
		Programs: filepath.Join(r.Executor.dir, programsDir),
		Process:  start{Args: r.spec.Process.Args, Env: env, Dir: dir, Rlimits: limits, Terminal: r.terminal != ""},
		Name:     name, Path: environment(env, "PATH"), UID: uint32(u.Uid), GID: uint32(u.Gid), Hostname: process.Hostname(r.spec),
		TimerSlack: timerSlack(),
	}
	r.job.Groups = []uint32{uint32(u.Gid)}
	for _, g := range u.Sgids {
		if !slices.Contains(r.job.Groups, uint32(g)) {
			r.job.Groups = append(r.job.Groups, uint32(g))
		}
	}
	if err := r.mounts(); err != nil {
		return err
	}
	// After the mount points are made: they are nobody's but root's.
	r.job.Owners, err = marshal(r.owners)
	return err
}

// mounts makes the table of mounts, in the order in which a container has them.
func (r *run) mounts() error {
	r.addMount(&mount{Target: "/", Source: r.spec.Root, Table: rootTable})
	dev, err := r.makeDev()
	if err != nil {
		return fmt.Errorf("preparing /dev: %w", err)
	}
	system := []mount{{Target: "/proc", Source: "/proc", Kind: procMount}, {Target: "/dev", Source: dev, Kind: tmpfsMount}}
	for _, name := range deviceNames() {
		system = append(system, mount{Target: "/dev/" + name, Source: "/dev/" + name})
	}
	// The ptmx of /dev/pts itself is closed on most machines.
	for target, source := range map[string]string{"/dev/pts": "/dev/pts", "/dev/pts/ptmx": "/dev/ptmx"} {
		if exists(source) {
			system = append(system, mount{Target: target, Source: source})
		}
	}
	if r.terminal != "" {
		system = append(system, mount{Target: "/dev/pts/0", Source: r.terminal}, mount{Target: "/dev/console", Source: r.terminal})
	}
	shm, err := r.tmpfs(0o1777)
	if err != nil {
		return fmt.Errorf("preparing /dev/shm: %w", err)
	}
	system = append(system, mount{Target: "/dev/shm", Source: shm, Kind: tmpfsMount}, mount{Target: "/sys", Source: "/sys", ReadOnly: true})
	masked, err := r.masked()
	if err != nil {
		return fmt.Errorf("masking /proc: %w", err)
	}
	system = append(system, masked...)
	for _, m := range system {
		if err := r.system(m); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	etc, err := r.etcFiles()
	if err != nil {
		return err
	}
	for _, m := range append(etc, r.spec.Mounts...) {
		if err := r.mount(m); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Target, err)
		}
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// system adds one of /proc, /dev, /sys and what is below them. They must be directories of the image, not links to somewhere else.
func (r *run) system(m mount) error {
	if dir, _ := split(m.Target); dir == "/" { // others are below these
		var st unix.Stat_t
		err := unix.Lstat(filepath.Join(r.spec.Root, m.Target), &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return errors.New("it is not a directory in this image")
		}
		if _, err := r.target(m.Target, true); err != nil {
			return err
		}
	}
	m.Table = ownTable
	r.addMount(&m)
	return nil
}

func (r *run) addMount(m *mount) {
	m.owners = r.owners[m.Table]
	r.job.Mounts = append(r.job.Mounts, m)
}

// tableOf is the number of the table for a mount of the Spec.
func (r *run) tableOf(m executor.Mount) int {
	if m.Owners == nil || m.Type != executor.Bind {
		return ownTable
	}
	if i := slices.Index(r.owners, m.Owners); i > ownTable {
		return i
	}
	r.owners = append(r.owners, m.Owners)
	return len(r.owners) - 1
}

// mount adds one mount of the Spec.
func (r *run) mount(m executor.Mount) error {
	if !filepath.IsAbs(m.Target) {
		return errors.New("target is not absolute")
	}
	isDir, kind := true, ordinaryMount
	switch m.Type {
	case executor.Bind:
		if !filepath.IsAbs(m.Source) {
			return fmt.Errorf("source %q is not absolute", m.Source)
		}
		st, err := os.Stat(m.Source)
		if err != nil {
			return err
		}
		isDir = st.IsDir()
	case executor.Tmpfs:
		mode := m.Mode
		if mode == 0 {
			mode = 0o1777
		}
		var err error
		if m.Source, err = r.tmpfs(mode); err != nil {
			return err
		}
		kind = tmpfsMount
	default:
		return fmt.Errorf("unknown kind of mount %q", m.Type)
	}
	target, err := r.target(m.Target, isDir)
	if err != nil {
		return err
	}
	if within("/proc", target) {
		return errors.New("nothing can be mounted over /proc")
	}
	r.addMount(&mount{Target: target, Source: m.Source, ReadOnly: m.ReadOnly, Kind: kind, Table: r.tableOf(m)})
	return nil
}

// tmpfs makes a directory that lasts as long as the run.
func (r *run) tmpfs(mode uint32) (string, error) {
	dir, err := os.MkdirTemp(r.dir, "tmpfs-")
	if err != nil {
		return "", err
	}
	return dir, r.say(dir, mode)
}

// say notes the mode of a directory made here.
func (r *run) say(dir string, mode uint32) error {
	if err := unix.Chmod(dir, realMode(mode, true)); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	r.owners[ownTable].Update(&st, func(m *fakeroot.Meta) { m.Mode = mode })
	return nil
}

// deviceNames are the devices of /dev.
func deviceNames() []string { return []string{"null", "zero", "full", "random", "urandom", "tty"} }

// makeDev makes the directory that is shown as /dev. The machine's devices are shown over the files in it.
func (r *run) makeDev() (string, error) {
	dev := filepath.Join(r.dir, "dev")
	err := os.Mkdir(dev, 0o700)
	files := deviceNames()
	if r.terminal != "" {
		files = append(files, "console")
	}
	for _, name := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(dev, name), nil, 0o600))
	}
	links := [][2]string{
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
		{"pts/ptmx", "ptmx"},
	}
	if exists("/proc/kcore") {
		links = append(links, [2]string{"/proc/kcore", "core"})
	}
	for _, l := range links {
		err = errors.Join(err, os.Symlink(l[0], filepath.Join(dev, l[1])))
	}
	for d, mode := range map[string]uint32{"pts": 0o755, "shm": 0o1777, "mqueue": 0o1777} {
		err = errors.Join(err, os.Mkdir(filepath.Join(dev, d), 0o755), r.say(filepath.Join(dev, d), mode))
	}
	return dev, errors.Join(err, os.Chmod(dev, 0o755))
}

// masked are what docker hides of a machine: empty files and directories are shown in their place.
func (r *run) masked() ([]mount, error) {
	file, dir := filepath.Join(r.dir, "masked-file"), filepath.Join(r.dir, "masked-dir")
	if err := errors.Join(os.WriteFile(file, nil, 0o400), os.Mkdir(dir, 0o500)); err != nil {
		return nil, err
	}
	var out []mount
	for _, name := range []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	} {
		st, err := os.Stat(name)
		if err != nil {
			continue
		}
		source := file
		if st.IsDir() {
			source = dir
		}
		out = append(out, mount{Target: name, Source: source, ReadOnly: true})
	}
	return out, nil
}

// etcFiles writes the files of /etc that are not the image's own, as BuildKit does.
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
		name := filepath.Join(r.dir, f.name)
		if err := errors.Join(os.WriteFile(name, f.content, 0o644), os.Chmod(name, 0o644)); err != nil {
			return nil, fmt.Errorf("preparing /etc/%s: %w", f.name, err)
		}
		mounts = append(mounts, executor.Mount{Type: executor.Bind, Source: name, Target: path.Join("/etc", f.name), ReadOnly: true})
	}
	return mounts, nil
}

// cleanUp removes what was made in the root filesystem and beside it.
func (r *run) cleanUp() error {
	err := r.removeStubs()
	return errors.Join(err, os.RemoveAll(r.dir))
}
