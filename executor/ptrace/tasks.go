package ptrace

import (
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// task is one thread under supervision. Its identity is what it believes to be, not what the kernel has.
type task struct {
	id    int
	group *group

	mu   sync.Mutex
	cred credentials

	// What follows belongs to the loop of ptrace alone.

	// restore are the arguments of a call that was changed, to be put back after it.
	restore *[6]uint64
	// release are descriptors held for a call under way.
	release []int
	// exec is the program that an execve under way will make of the task.
	exec *program
}

// group is a process: what its threads share.
type group struct {
	id int

	mu    sync.Mutex
	umask uint32
	exe   string
}

func (g *group) executable() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.exe
}

func (g *group) setExecutable(p string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.exe = p
}

func (g *group) mask() uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.umask
}

func (g *group) setMask(m uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.umask = m & 0o777
}

func (t *task) creds() credentials {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cred
}

func (t *task) setCreds(c credentials) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cred = c
}

// privileged reports whether the task is root, who may do everything with files.
func (t *task) privileged() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cred.uid.fs == 0
}

func (t *task) memory() memory { return memory(t.id) }

// fdLink is the machine's name of an open file of the task, or of its working directory.
func (t *task) fdLink(fd int32) string {
	if fd == unix.AT_FDCWD {
		return "/proc/" + strconv.Itoa(t.id) + "/cwd"
	}
	return "/proc/" + strconv.Itoa(t.id) + "/fd/" + strconv.Itoa(int(fd))
}

// status translates the lines of /proc/PID/status that show who the task really is.
func (t *task) status(b []byte) []byte {
	c := t.creds()
	caps := "0000000000000000"
	if c.uid.e == 0 {
		caps = dockerCapabilities
	}
	var groups strings.Builder
	for _, g := range c.groups {
		groups.WriteString(strconv.Itoa(int(g)) + " ")
	}
	lines := map[string]string{
		"Uid": c.uid.line(), "Gid": c.gid.line(), "Groups": groups.String(), "TracerPid": "0", "NoNewPrivs": "0",
		"CapInh": "0000000000000000", "CapPrm": caps, "CapEff": caps, "CapBnd": dockerCapabilities, "CapAmb": "0000000000000000",
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		name, _, _ := strings.Cut(line, ":")
		if v, ok := lines[name]; ok {
			line = name + ":\t" + v + "\n"
		}
		out.WriteString(line)
	}
	return []byte(out.String())
}

// dockerCapabilities are docker's default capabilities, as /proc/PID/status writes them.
const dockerCapabilities = "00000000a80425fb"

// ids are the three ids that a task has of users, and of groups, and the one that counts for files.
type ids struct{ r, e, s, fs uint32 }

func sameIDs(id uint32) ids { return ids{id, id, id, id} }

func (i ids) has(id uint32) bool { return id == i.r || id == i.e || id == i.s }

func (i ids) line() string {
	var out []string
	for _, id := range []uint32{i.r, i.e, i.s, i.fs} {
		out = append(out, strconv.FormatUint(uint64(id), 10))
	}
	return strings.Join(out, "\t")
}

// credentials are who a task is. It is a value; groups is never changed, only replaced.
type credentials struct {
	uid, gid ids
	groups   []uint32
	// Root has its capabilities whatever these say. keep is PR_SET_KEEPCAPS; who then becomes another user has them permitted, and effective
	// again once capset(2) has said so, until the next exec. They count for ids, not for files.
	keep, permitted, effective bool
}

// capable reports whether ids may be changed at will.
func (c credentials) capable() bool { return c.uid.e == 0 || c.effective }

func (c credentials) in(gid uint32) bool { return c.gid.fs == gid || slices.Contains(c.groups, gid) }

// allows checks permission bits as the kernel does for who is not root (path_resolution(7)).
func (c credentials) allows(uid, gid, mode, want uint32) error {
	bits := mode & 7
	switch {
	case c.uid.fs == uid:
		bits = mode >> 6 & 7
	case c.in(gid):
		bits = mode >> 3 & 7
	}
	if want&^bits != 0 {
		return unix.EACCES
	}
	return nil
}

// taskTable is all tasks by thread id.
type taskTable struct {
	mu    sync.RWMutex
	tasks map[int]*task
}

func (t *taskTable) get(id int) *task {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tasks[id]
}

func (t *taskTable) put(id int, task *task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tasks[id] = task
}

func (t *taskTable) drop(id int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tasks, id)
}

// groups lists the ids of all processes.
func (t *taskTable) groups() []int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []int
	for _, task := range t.tasks {
		if !slices.Contains(out, task.group.id) {
			out = append(out, task.group.id)
		}
	}
	return out
}

// child makes the task that a task has created: a thread of the same process, or a process with a copy of all.
func (t *task) child(id int, thread bool) *task {
	c := &task{id: id, group: t.group, cred: t.creds()}
	if !thread {
		c.group = &group{id: id, umask: t.group.mask(), exe: t.group.executable()}
	}
	return c
}
