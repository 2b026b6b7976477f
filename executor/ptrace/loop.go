package ptrace

import (
	"encoding/binary"
	"errors"
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
	// left is the last task that has ended. If it was killed, or another thread ended it, it may have made others of which it could not say so.
	left *task
	// status is how the main task ended.
	status unix.WaitStatus
	ended  bool
}

// gone is the error of a request to a task, less that it was killed meanwhile: its end is still to come.
func gone(err error) error {
	if err == unix.ESRCH {
		return nil
	}
	return err
}

// run follows all tasks until none is left. When the main one has ended the others are killed: they belong to the step. After an error nobody is
// followed any more: the supervisor has to end, and with it all tasks.
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
			err = l.exited(id, ws)
		case ws.Stopped():
			err = l.stopped(id, ws)
		}
		if err != nil {
			return fmt.Errorf("following process %d: %w", id, err)
		}
	}
}

func (l *loop) exited(id int, ws unix.WaitStatus) error {
	if t := l.tasks.get(id); t != nil {
		l.tasks.drop(id)
		l.left = t
		if err := errors.Join(l.finish(t), l.adopt(t)); err != nil {
			return err
		}
	}
	delete(l.held, id)
	if id == l.main {
		l.status, l.ended = ws, true
	}
	if l.ended {
		return l.killAll()
	}
	return nil
}

// killAll ends what is left of a step. What is being born meanwhile is killed when it is first seen.
func (l *loop) killAll() error {
	var errs []error
	for _, id := range l.tasks.groups() {
		errs = append(errs, kill9(id))
	}
	for id := range l.held {
		errs = append(errs, kill9(id))
	}
	return errors.Join(errs...)
}

func kill9(id int) error {
	if err := gone(unix.Kill(id, unix.SIGKILL)); err != nil {
		return fmt.Errorf("ending process %d: %w", id, err)
	}
	return nil
}

// adopt lets tasks go whose creator was killed before it could say that it made them.
func (l *loop) adopt(parent *task) error {
	for id := range l.held {
		ppid, tgid := parents(id)
		if l.tasks.get(ppid) != nil || l.tasks.get(tgid) != nil {
			continue
		}
		if err := l.begin(parent.child(id, false)); err != nil {
			return err
		}
	}
	return nil
}

// parents reads who a task belongs to: nobody, if it is gone.
func parents(id int) (ppid, tgid int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", id))
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "PPid:\t%d", &ppid)
		_, _ = fmt.Sscanf(line, "Tgid:\t%d", &tgid)
	}
	return ppid, tgid
}

func (l *loop) stopped(id int, ws unix.WaitStatus) error {
	sig := ws.StopSignal()
	if l.ended {
		if err := kill9(id); err != nil {
			return err
		}
	}
	t := l.tasks.get(id)
	if t == nil {
		l.held[id] = true
		if l.left != nil {
			return l.adopt(l.left)
		}
		return nil
	}
	var err error
	switch event := int(ws) >> 16; event {
	case unix.PTRACE_EVENT_SECCOMP:
		return l.before(t)
	case unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK, unix.PTRACE_EVENT_CLONE:
		err, sig = l.created(t), 0
	case unix.PTRACE_EVENT_EXEC:
		err, sig = l.executed(id), 0
	case eventStop:
		if sig == unix.SIGSTOP || sig == unix.SIGTSTP || sig == unix.SIGTTIN || sig == unix.SIGTTOU {
			// Job control: it stays stopped until SIGCONT.
			return gone(ptraceRequest(unix.PTRACE_LISTEN, id, 0, 0))
		}
		sig = 0
	case 0:
		if sig == syscallStop {
			err, sig = l.finish(t), 0
		}
	default:
		sig = 0
	}
	if err != nil {
		return err
	}
	return l.resume(id, sig)
}

func (l *loop) resume(id int, sig unix.Signal) error {
	if err := gone(unix.PtraceCont(id, int(sig))); err != nil {
		return fmt.Errorf("resuming it: %w", err)
	}
	return nil
}

func ptraceRequest(request, id int, addr, data uintptr) error {
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(id), addr, data, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// before changes a call that a task is stopped before. Where that cannot be done the call must not be made: it would reach the machine.
func (l *loop) before(t *task) error {
	r, err := readRegisters(t.id)
	if err != nil {
		return gone(err)
	}
	regs := r.decode()
	f := l.rewrites[regs.nr]
	if f == nil {
		return l.resume(t.id, 0)
	}
	s := newScratch(t.memory(), regs.stack)
	out, err := f(&call{supervisor: l.supervisor, task: t, nr: regs.nr, args: regs.args}, s)
	if out.hold > 0 {
		t.release = append(t.release, out.hold)
	}
	if err != nil {
		if err := gone(denyCall(t.id, r, notify.Errno(err))); err != nil {
			return fmt.Errorf("refusing a call: %w", err)
		}
		if err := l.finish(t); err != nil {
			return err
		}
		return l.resume(t.id, 0)
	}
	if out.unchanged {
		return l.resume(t.id, 0)
	}
	t.restore = &regs.args
	t.exec, t.after = out.program, out.after
	if err = gone(changeCall(t.id, r, out.nr, out.args)); err == nil {
		err = gone(ptraceRequest(unix.PTRACE_SYSCALL, t.id, 0, 0))
	}
	if err != nil {
		return fmt.Errorf("changing a call: %w", err)
	}
	return nil
}

// finish puts back what before has changed.
func (l *loop) finish(t *task) error {
	var err error
	if t.restore != nil {
		err = gone(restoreCall(t.id, *t.restore))
	}
	if t.after != nil {
		err = errors.Join(err, t.after())
	}
	for _, fd := range t.release {
		unix.Close(fd)
	}
	t.restore, t.release, t.exec, t.after = nil, nil, nil, nil
	if err != nil {
		return fmt.Errorf("after a call that was changed: %w", err)
	}
	return nil
}

// created notes the task that a task has made, and lets it go if it waits already. If its maker is gone it is adopted.
func (l *loop) created(t *task) error {
	id, err := unix.PtraceGetEventMsg(t.id)
	if err != nil {
		return gone(err)
	}
	r, err := readRegisters(t.id)
	if err != nil {
		return gone(err)
	}
	regs := r.decode()
	return l.begin(t.child(int(id), regs.nr == unix.SYS_CLONE && regs.args[0]&unix.CLONE_THREAD != 0))
}

func (l *loop) begin(t *task) error {
	l.tasks.put(t.id, t)
	if !l.held[t.id] {
		return nil
	}
	delete(l.held, t.id)
	return l.resume(t.id, 0)
}

// executed makes the task what its new program makes of it. All other threads of the process are gone, and it has the id of the first.
func (l *loop) executed(id int) error {
	former, err := unix.PtraceGetEventMsg(id)
	if err != nil {
		return gone(err)
	}
	if t := l.tasks.get(int(former)); t != nil && t.id != id {
		l.tasks.drop(t.id)
		t.id = id
		l.tasks.put(id, t)
	}
	t := l.tasks.get(id)
	if t == nil {
		return nil
	}
	p := t.exec
	t.restore = nil
	if err := l.finish(t); err != nil || p == nil {
		return err
	}
	t.group.setExecutable(p.exe)
	t.setCreds(t.creds().Execute(p.setuid, p.setgid))
	if err := describe(t, p.exe); err != nil {
		if _, killed := readRegisters(id); killed == unix.ESRCH {
			return nil // and its memory went with it
		}
		return fmt.Errorf("describing %s: %w", p.exe, err)
	}
	return nil
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
		return gone(err)
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
