package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// defaultGrace is Spec.Grace where it is 0, as long as docker waits.
const defaultGrace = 10 * time.Second

// wait waits for the process to end, and makes it end when ctx does.
func (r *run) wait(ctx context.Context, proc *libcontainer.Process) error {
	pid, err := proc.Pid()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-done:
		case <-ctx.Done():
			r.stop(proc, pid, done)
		}
	}()
	st, err := proc.Wait()
	close(done)
	<-stopped
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return fmt.Errorf("waiting for %q: %w", proc.Args[0], err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("running %q: %w", proc.Args[0], context.Cause(ctx))
	}
	return exitError(st)
}

// stop ends the processes of a container: SIGTERM to all of them, and SIGKILL to its pid 1, hence to all, after the
// grace. SIGTERM goes to all because the kernel withholds it from a pid 1 without a handler for it, which is what a
// shell is: sent to the shell alone it would do nothing for ten seconds, but its child ends, and then the shell does.
func (r *run) stop(proc *libcontainer.Process, pid int, done <-chan struct{}) {
	grace := r.spec.Grace
	if grace <= 0 {
		grace = defaultGrace
	}
	for _, p := range inSamePIDNamespace(pid) {
		_ = unix.Kill(p, unix.SIGTERM)
	}
	select {
	case <-done:
	case <-time.After(grace):
		_ = proc.Signal(unix.SIGKILL)
	}
}

// inSamePIDNamespace lists the processes that share the pid namespace of one.
func inSamePIDNamespace(pid int) []int {
	ns, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/pid")
	if err != nil {
		return nil // it has just ended
	}
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if l, err := os.Readlink("/proc/" + e.Name() + "/ns/pid"); err == nil && l == ns {
			pids = append(pids, n)
		}
	}
	return pids
}
