package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

// defaultGrace is Spec.Grace where it is 0, as long as docker waits.
const defaultGrace = 10 * time.Second

// Proc is a process that was started: pid 1 of its own pid namespace or, where no new /proc can be mounted and it shares this one, the
// first of its own mount namespace.
type Proc interface {
	Wait() (*os.ProcessState, error)
	// Kill ends it, if it has not ended yet.
	Kill()
}

// Wait is ContainerOf and Container.Wait, for a process that shares no pid namespace.
func Wait(ctx context.Context, spec executor.Spec, proc Proc, pid int) error {
	return ContainerOf(pid).Wait(ctx, spec, proc)
}

// Wait waits for the process to end, and makes it end when ctx does. What it leaves behind is ended too: by the kernel with its pid
// namespace, or by Wait where it shares this process's.
func (c Container) Wait(ctx context.Context, spec executor.Spec, proc Proc) error {
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-done:
		case <-ctx.Done():
			stop, asked := how(ctx, spec)
			c.stop(proc, done, stop, asked)
		}
	}()
	st, err := proc.Wait()
	close(done)
	<-stopped
	c.endAll()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return fmt.Errorf("waiting for %q: %w", spec.Process.Args[0], err)
	}
	if _, stopped := errors.AsType[*executor.Stop](context.Cause(ctx)); ctx.Err() != nil && !stopped {
		return fmt.Errorf("running %q: %w", spec.Process.Args[0], context.Cause(ctx))
	}
	return exitError(st)
}

// exitError turns the end of a process into the error of Run.
func exitError(st *os.ProcessState) error {
	ws, ok := st.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return fmt.Errorf("unexpected end of the process: %s", st)
	case ws.Signaled():
		return &executor.ExitError{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	case ws.ExitStatus() != 0:
		return &executor.ExitError{Code: ws.ExitStatus()}
	}
	return nil
}

// how says in which way a context that has ended wants the process to end, and whether that was asked for with a Stop.
func how(ctx context.Context, spec executor.Spec) (s executor.Stop, asked bool) {
	s = executor.Stop{Grace: spec.Grace}
	stop, asked := errors.AsType[*executor.Stop](context.Cause(ctx))
	if asked {
		if s = *stop; s.Signal == 0 {
			s.Signal = spec.StopSignal
		}
	} else if s.Grace <= 0 {
		s.Grace = defaultGrace
	}
	if s.Signal == 0 {
		s.Signal = int(unix.SIGTERM)
	}
	return s, asked
}

// stop ends the processes of a container: SIGTERM (or what Stop says) to all of them, and SIGKILL to its pid 1, hence to all, after the
// grace. SIGTERM goes to all because the kernel withholds it from a pid 1 without a handler for it, which is what a
// shell is: sent to the shell alone it would do nothing for ten seconds, but its child ends, and then the shell does. A container that is asked to
// stop, and knows how, sees to its processes itself.
func (c Container) stop(proc Proc, done <-chan struct{}, how executor.Stop, asked bool) {
	to := c.processes()
	if asked && catches(c.pid, unix.Signal(how.Signal)) {
		to = []int{c.pid}
	}
	for _, p := range to {
		if how.Grace > 0 {
			_ = unix.Kill(p, unix.Signal(how.Signal))
		}
	}
	over := time.After(how.Grace)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-done:
			return
		case <-over:
		case <-look.C:
			// A pid 1 that is alone and has no handler never hears of SIGTERM: `sh -c "sleep 100"` is a sleep, after its exec.
			if len(c.processes()) > 1 || catches(c.pid, unix.Signal(how.Signal)) {
				continue
			}
		}
		proc.Kill()
		return
	}
}

// catches reports whether a process has a handler for a signal (proc_pid_status(5), SigCgt). When in doubt it has.
func catches(pid int, sig unix.Signal) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(status), "\nSigCgt:")
	mask, _, _ := strings.Cut(rest, "\n")
	bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
	return err != nil || bits&(1<<(sig-1)) != 0
}

// Container is the processes that a first one has started, told by a namespace that they cannot leave: their pid namespace or, where they
// share ours, their mount namespace, in which the system call filter keeps them.
type Container struct {
	pid      int
	kind, ns string
	shared   bool
}

// ContainerOf finds the container of a process by its number in this process's pid namespace. The process must be in its namespaces and, if it
// shares this pid namespace, must not have ended: call it before the program is executed.
func ContainerOf(pid int) Container {
	c := Container{pid: pid, kind: "pid"}
	own, _ := os.Readlink("/proc/self/ns/pid")
	c.ns, _ = os.Readlink(nsLink(pid, c.kind)) // none if the process has just ended
	if c.ns != own {
		return c
	}
	c.kind, c.shared = "mnt", true
	c.ns, _ = os.Readlink(nsLink(pid, c.kind))
	if own, _ := os.Readlink("/proc/self/ns/mnt"); c.ns == own {
		c.ns = "" // never end ourselves
	}
	return c
}

func nsLink(pid int, kind string) string { return "/proc/" + strconv.Itoa(pid) + "/ns/" + kind }

// processes lists the processes of the container.
func (c Container) processes() []int {
	if c.ns == "" {
		return nil
	}
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if l, err := os.Readlink(nsLink(n, c.kind)); err == nil && l == c.ns {
			pids = append(pids, n)
		}
	}
	return pids
}

// endAll kills what is left of a container whose pid namespace does not end with it, and returns when nothing is left.
func (c Container) endAll() {
	for c.shared {
		pids := c.processes()
		if len(pids) == 0 {
			return
		}
		for _, p := range pids {
			_ = unix.Kill(p, unix.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
}
