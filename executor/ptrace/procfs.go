package ptrace

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// proc looks up what is below /proc. The machine's own is shown, but "self" is the process that asks, other processes than the traced ones are
// not there, and the links to files lead into the root filesystem. It returns a place, or the names at which to go on from the root.
func (r *resolver) proc(m *mount, rest string, follow bool) (place, []string, error) {
	names := strings.Split(rest, "/")
	tgid := strconv.Itoa(r.task.group.id)
	switch names[0] {
	case "self":
		if len(names) == 1 && !follow {
			return r.procFile(m, names)
		}
		names[0] = tgid
	case "thread-self":
		if len(names) == 1 && !follow {
			return r.procFile(m, names)
		}
		names = append([]string{tgid, "task", strconv.Itoa(r.task.id)}, names[1:]...)
	case "mounts", "net":
		if len(names) > 1 || follow {
			names = append([]string{tgid}, names...)
		}
	}
	id, err := strconv.Atoi(names[0])
	if err != nil {
		return r.procFile(m, names)
	}
	t := r.tasks.get(id)
	if t == nil {
		return place{}, nil, unix.ENOENT
	}
	own := 1 // the names that lead to the process or thread
	if len(names) > 2 && names[1] == "task" {
		if tid, err := strconv.Atoi(names[2]); err == nil {
			if t = r.tasks.get(tid); t == nil {
				return place{}, nil, unix.ENOENT
			}
			own = 3
		}
	}
	if len(names) == own {
		return r.procFile(m, names)
	}
	link, after := own+1, names[own+1:]
	switch names[own] {
	case "fd":
		if len(names) == own+1 {
			return r.procFile(m, names)
		}
		link, after = own+2, names[own+2:]
	case "cwd", "root", "exe":
	default:
		return r.procFile(m, names)
	}
	if len(after) == 0 && !follow {
		return r.procFile(m, names)
	}
	return r.magic(t, names[:link], after)
}

// magic follows a link of /proc to a file that a process has.
func (r *resolver) magic(t *task, link, after []string) (place, []string, error) {
	switch link[len(link)-1] {
	case "root":
		return place{}, append([]string{}, after...), nil
	case "exe":
		names, _ := components(t.group.executable())
		return place{}, append(names, after...), nil
	}
	host := "/proc/" + strings.Join(link, "/")
	to, err := readlink(host)
	if err != nil {
		return place{}, nil, err
	}
	if guest, ok := r.mounts.guest(to); ok && (len(after) > 0 || link[len(link)-1] == "cwd") {
		names, _ := components(guest)
		return place{}, append(names, after...), nil
	}
	if len(after) > 0 {
		return place{}, nil, unix.ENOTDIR
	}
	// The file itself, which may have no name any more.
	var at place
	if at.mount, at.path = r.mounts.of(to); strings.HasSuffix(to, " (deleted)") {
		at.path = ""
	}
	if at.fd, err = unix.Open(host, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return place{}, nil, err
	}
	if err := unix.Fstat(at.fd, &at.st); err != nil {
		at.close()
		return place{}, nil, err
	}
	return at, nil, nil
}

// procFile is a file of /proc as the machine has it. Its own links lead nowhere that is shown.
func (r *resolver) procFile(m *mount, names []string) (place, []string, error) {
	rest := strings.Join(names, "/")
	at := place{path: join(m.Target, strings.TrimPrefix(rest, ".")), mount: m}
	var err error
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	if at.fd, err = unix.Openat2(m.fd, rest, &how); err != nil {
		return place{}, nil, err
	}
	if err := unix.Fstat(at.fd, &at.st); err != nil {
		at.close()
		return place{}, nil, err
	}
	return at, nil, nil
}

// procLink returns what the link that a place of /proc is says, as the process is to see it.
func (r *resolver) procLink(at *place) (string, error) {
	names := strings.Split(strings.TrimPrefix(at.path, "/proc/"), "/")
	switch names[0] {
	case "self":
		return strconv.Itoa(r.task.group.id), nil
	case "thread-self":
		return fmt.Sprintf("%d/task/%d", r.task.group.id, r.task.id), nil
	}
	id, err := strconv.Atoi(names[0])
	last := names[len(names)-1]
	if t := r.tasks.get(id); err == nil && t != nil {
		switch last {
		case "root":
			return "/", nil
		case "exe":
			return t.group.executable(), nil
		}
	}
	target, err := readlinkAt(at.fd)
	if err != nil {
		return "", err
	}
	if guest, ok := r.mounts.guest(target); ok && strings.HasPrefix(target, "/") {
		return guest, nil
	}
	return target, nil
}

// ofProcess reports whether a place of /proc is about one process, not about the machine.
func (r *resolver) ofProcess(at *place) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(at.path, "/proc/"), "/")
	_, err := strconv.Atoi(name)
	return err == nil
}

// translated are the files of a process that tell of the machine what the root filesystem has otherwise.
func (r *resolver) translated(at *place) (content []byte, ok bool, err error) {
	names := strings.Split(strings.TrimPrefix(at.path, "/proc/"), "/")
	id, err := strconv.Atoi(names[0])
	if err != nil {
		return nil, false, nil
	}
	t := r.tasks.get(id)
	last := names[len(names)-1]
	if t == nil || len(names) != 2 && !(len(names) == 4 && names[1] == "task") {
		return nil, false, nil
	}
	switch last {
	case "mounts":
		return []byte(r.mountLines()), true, nil
	case "mountinfo":
		return []byte(r.mountInfo()), true, nil
	case "status", "maps":
	default:
		return nil, false, nil
	}
	b, err := os.ReadFile(selfFD(at.fd))
	if err != nil {
		return nil, false, err
	}
	if last == "maps" {
		return r.mapsOf(b), true, nil
	}
	return t.status(b), true, nil
}

// mountLines is /proc/self/mounts (fstab(5)): what is mounted in the root filesystem, not on the machine.
func (r *resolver) mountLines() string {
	var b strings.Builder
	for _, m := range r.mounts {
		fmt.Fprintf(&b, "%s %s %s %s,relatime 0 0\n", m.device(), escapeMount(m.Target), m.fstype(), m.access())
	}
	return b.String()
}

// mountInfo is /proc/self/mountinfo (proc_pid_mountinfo(5)).
func (r *resolver) mountInfo() string {
	var b strings.Builder
	for i, m := range r.mounts {
		var st unix.Stat_t
		_ = unix.Fstat(m.fd, &st)
		fmt.Fprintf(&b, "%d %d %d:%d / %s %s,relatime - %s %s %s\n", i+20, min(i, 1)*20, unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)),
			escapeMount(m.Target), m.access(), m.fstype(), m.device(), m.access())
	}
	return b.String()
}

func escapeMount(p string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(p)
}

func (m *mount) access() string {
	if m.ReadOnly {
		return "ro"
	}
	return "rw"
}

func (m *mount) device() string {
	switch {
	case m.Kind == procMount:
		return "proc"
	case m.Target == "/":
		return "overlay"
	}
	return "none"
}

func (m *mount) fstype() string {
	switch {
	case m.Kind == procMount:
		return "proc"
	case m.Target == "/":
		return "overlay"
	case m.Target == "/sys":
		return "sysfs"
	}
	return "tmpfs"
}

// mapsOf translates the file names in /proc/PID/maps.
func (r *resolver) mapsOf(b []byte) []byte {
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		if i := strings.IndexByte(line, '/'); i > 0 {
			host := strings.TrimSuffix(line[i:], "\n")
			if exe, ok := r.programs.original(host); ok {
				line = line[:i] + exe + "\n"
			} else if guest, ok := r.mounts.guest(host); ok {
				line = line[:i] + guest + "\n"
			}
		}
		out.WriteString(line)
	}
	return []byte(out.String())
}
