package ptrace

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
)

// traceOptions: the end of the supervisor is the end of all (EXITKILL), and every new task is under supervision before it runs.
const traceOptions = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
	unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESYSGOOD

const (
	eventStop   = 128 // PTRACE_EVENT_STOP
	syscallStop = unix.SIGTRAP | 0x80
)

// loop is the tracer: it changes the calls that have to be changed before the kernel sees them, and keeps the table of tasks. All of it runs on
// one thread, the only one that ptrace works from.
//
//	a task ──► stop before execve, chdir, bind, connect: arguments changed ──► stop after: arguments put back
//	       ──► fork, clone: the child is held until its parent's event has said whose it is
//	       ──► exec: the new program's auxiliary vector is made to tell what the task believes
type loop struct {
	*supervisor
	main int
	// held are new tasks that stopped before their parent's event came.
	held map[int]bool
	// status is how the main task ended.
	status unix.WaitStatus
	ended  bool
}

// run follows all tasks until none is left. When the main one has ended the others are killed: they belong to the step.
func (l *loop) run() error {
	for {
		var ws unix.WaitStatus
		id, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECHILD:
			return nil
		case err != nil:
			return fmt.Errorf("waiting for processes: %w", err)
		}
		switch {
		case ws.Exited() || ws.Signaled():
			l.exited(id, ws)
		case ws.Stopped():
			l.stopped(id, ws)
		}
	}
}

func (l *loop) exited(id int, ws unix.WaitStatus) {
	if t := l.tasks.get(id); t != nil {
		l.finish(t)
		l.tasks.drop(id)
		l.adopt(t)
	}
	delete(l.held, id)
	if id == l.main {
		l.status, l.ended = ws, true
	}
	if l.ended {
		l.killAll()
	}
}

// killAll ends what is left of a step. What is being born meanwhile is killed when it is first seen.
func (l *loop) killAll() {
	for _, id := range l.tasks.groups() {
		_ = unix.Kill(id, unix.SIGKILL)
	}
	for id := range l.held {
		_ = unix.Kill(id, unix.SIGKILL)
	}
}

// adopt lets tasks go whose creator was killed before it could say that it made them.
func (l *loop) adopt(parent *task) {
	for id := range l.held {
		ppid, tgid := parents(id)
		if l.tasks.get(ppid) != nil || l.tasks.get(tgid) != nil {
			continue
		}
		l.begin(parent.child(id, false))
	}
}

// parents reads who a task belongs to.
func parents(id int) (ppid, tgid int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", id))
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "PPid:\t%d", &ppid)
		_, _ = fmt.Sscanf(line, "Tgid:\t%d", &tgid)
	}
	return ppid, tgid
}

func (l *loop) stopped(id int, ws unix.WaitStatus) {
	sig := ws.StopSignal()
	if l.ended {
		_ = unix.Kill(id, unix.SIGKILL)
	}
	t := l.tasks.get(id)
	if t == nil {
		l.held[id] = true
		return
	}
	switch event := int(ws) >> 16; event {
	case unix.PTRACE_EVENT_SECCOMP:
		l.before(t)
	case unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK, unix.PTRACE_EVENT_CLONE:
		l.created(t)
		l.resume(id, 0)
	case unix.PTRACE_EVENT_EXEC:
		l.executed(id)
		l.resume(id, 0)
	case eventStop:
		if sig == unix.SIGSTOP || sig == unix.SIGTSTP || sig == unix.SIGTTIN || sig == unix.SIGTTOU {
			// Job control: it stays stopped until SIGCONT.
			_ = ptraceRequest(unix.PTRACE_LISTEN, id, 0, 0)
			return
		}
		l.resume(id, 0)
	case 0:
		if sig == syscallStop {
			l.finish(t)
			sig = 0
		}
		l.resume(id, sig)
	default:
		l.resume(id, 0)
	}
}

func (l *loop) resume(id int, sig unix.Signal) { _ = unix.PtraceCont(id, int(sig)) }

func ptraceRequest(request, id int, addr, data uintptr) error {
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(id), addr, data, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// before changes a call that a task is stopped before.
func (l *loop) before(t *task) {
	r, err := readRegisters(t.id)
	if err != nil {
		return // it was killed
	}
	regs := r.decode()
	f := l.rewrites[regs.nr]
	if f == nil {
		l.resume(t.id, 0)
		return
	}
	s := newScratch(t.memory(), regs.stack)
	out, err := f(&call{supervisor: l.supervisor, task: t, nr: regs.nr, args: regs.args}, s)
	switch {
	case err != nil:
		_ = denyCall(t.id, r, notify.Errno(err))
	case !out.unchanged:
		t.restore = &regs.args
		t.exec, t.after = out.program, out.after
		if out.hold >= 0 {
			t.release = append(t.release, out.hold)
		}
		_ = changeCall(t.id, r, out.nr, out.args)
		_ = ptraceRequest(unix.PTRACE_SYSCALL, t.id, 0, 0)
		return
	}
	l.resume(t.id, 0)
}

// finish puts back what before has changed.
func (l *loop) finish(t *task) {
	if t.restore != nil {
		_ = restoreCall(t.id, *t.restore)
	}
	if t.after != nil {
		t.after()
	}
	for _, fd := range t.release {
		unix.Close(fd)
	}
	t.restore, t.release, t.exec, t.after = nil, nil, nil, nil
}

// created notes the task that a task has made, and lets it go if it waits already.
func (l *loop) created(t *task) {
	id, err := unix.PtraceGetEventMsg(t.id)
	if err != nil {
		return
	}
	thread := false
	if r, err := readRegisters(t.id); err == nil {
		regs := r.decode()
		thread = regs.nr == unix.SYS_CLONE && regs.args[0]&unix.CLONE_THREAD != 0
	}
	l.begin(t.child(int(id), thread))
}

func (l *loop) begin(t *task) {
	l.tasks.put(t.id, t)
	if l.held[t.id] {
		delete(l.held, t.id)
		l.resume(t.id, 0)
	}
}

// executed makes the task what its new program makes of it. All other threads of the process are gone, and it has the id of the first.
func (l *loop) executed(id int) {
	if former, err := unix.PtraceGetEventMsg(id); err == nil && int(former) != id {
		if t := l.tasks.get(int(former)); t != nil {
			l.tasks.drop(t.id)
			t.id = id
			l.tasks.put(id, t)
		}
	}
	t := l.tasks.get(id)
	if t == nil {
		return
	}
	p := t.exec
	t.restore = nil
	l.finish(t)
	if p == nil {
		return
	}
	t.group.setExecutable(p.exe)
	t.setCreds(t.creds().Execute(p.setuid, p.setgid))
	if err := describe(t, p.exe); err != nil {
		l.remark("describing " + p.exe + ": " + err.Error())
	}
}

// Entries of the auxiliary vector (getauxval(3)).
const (
	auxUID, auxEUID, auxGID, auxEGID = 11, 12, 13, 14
	auxSecure, auxExecFn             = 23, 31
)

// describe corrects what the kernel has told a new program of itself, on its stack: argc, the arguments, a null, the environment, a null, the
// auxiliary vector.
func describe(t *task, exe string) error {
	r, err := readRegisters(t.id)
	if err != nil {
		return nil // it was killed
	}
	mem, at := t.memory(), r.decode().stack+8
	for range 2 {
		list, err := mem.Pointers(at)
		if err != nil {
			return err
		}
		at += uint64(len(list)+1) * 8
	}
	var aux [64 * 16]byte
	n := mem.Read(at, aux[:])
	c := t.creds()
	values := map[uint64]uint64{
		auxUID: uint64(c.UID.R), auxEUID: uint64(c.UID.E), auxGID: uint64(c.GID.R), auxEGID: uint64(c.GID.E),
	}
	if c.UID.R != c.UID.E || c.GID.R != c.GID.E {
		values[auxSecure] = 1
	}
	for i := 0; i+16 <= n; i += 16 {
		kind, v := binary.NativeEndian.Uint64(aux[i:]), binary.NativeEndian.Uint64(aux[i+8:])
		if kind == 0 {
			n = i + 16
			break
		}
		if to, ok := values[kind]; ok {
			binary.NativeEndian.PutUint64(aux[i+8:], to)
		}
		if kind == auxExecFn {
			// The name in the root filesystem fits where the longer one of the machine is.
			if was, err := mem.Path(v); err == nil && len(exe) <= len(was) && exe != "" {
				if err := mem.Write(v, append([]byte(exe), 0)); err != nil {
					return err
				}
			}
		}
	}
	return mem.Write(at, aux[:n])
}
