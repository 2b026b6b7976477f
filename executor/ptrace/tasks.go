package ptrace

import (
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
)

// task is one thread under supervision. Its identity is what it believes to be, not what the kernel has.
type task struct {
	id    int
	group *group

	mu   sync.Mutex
	cred identity.Credentials

	// What follows belongs to the loop of ptrace alone.

	// restore are the arguments of a call that was changed, to be put back after it.
	restore *[6]uint64
	// release are descriptors held for a call under way.
	release []int
	// exec is the program that an execve under way will make of the task, after what is to be done once a call under way has returned.
	exec  *program
	after func() error
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

func (t *task) creds() identity.Credentials {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cred
}

func (t *task) setCreds(c identity.Credentials) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cred = c
}

// privileged reports whether the task is root, who may do everything with files.
func (t *task) privileged() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cred.UID.FS == 0
}

func (t *task) memory() notify.Memory { return notify.Memory(t.id) }

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
	if c.UID.E == 0 {
		caps = identity.Capabilities
	}
	var groups strings.Builder
	for _, g := range c.Groups {
		groups.WriteString(strconv.Itoa(int(g)) + " ")
	}
	lines := map[string]string{
		"Uid": c.UID.Line(), "Gid": c.GID.Line(), "Groups": groups.String(), "TracerPid": "0", "NoNewPrivs": "0",
		"CapInh": "0000000000000000", "CapPrm": caps, "CapEff": caps, "CapBnd": identity.Capabilities, "CapAmb": "0000000000000000",
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
