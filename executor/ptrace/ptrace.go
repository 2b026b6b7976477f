// Package ptrace runs processes over a root filesystem where nothing is allowed: no user namespace, no mount, no chroot, no capability, no
// new privileges. It is the executor for "restricted" pods, and the last resort everywhere.
//
// Nothing is confined by the kernel; instead every call that names a file or an owner is carried out by a supervisor, a process of its own
// for each run:
//
//	builder ── socket: job, signals; report ──► supervisor ── seccomp notifications: open, stat, chown … are done here,
//	                                               │            descriptors are handed over, ids are believed
//	                                               └──────── ptrace: execve, chdir, bind, connect get other arguments
//
// Paths are resolved by the supervisor within the root filesystem (resolve.go), owners, modes, devices and attributes are kept in a
// fakeroot.Table, user and group ids in the supervisor (tasks.go). Programs are started by the kernel itself (program.go). Linux 5.19 is
// needed.
//
// This is a view, not a wall: the processes are the builder's user, and whoever wants to can make calls that are not looked at. What
// they can do to the machine is what that user can. What cannot be had is an error that names this executor: a network of its own, a bound on a
// tmpfs. Limits known: 32-bit programs, ptrace and chroot are refused, with a remark on the process's standard error; pids are the
// machine's; docs/confinement.md has the list.
package ptrace

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/process"
	"github.com/cairn-build/cairn/pkg/fakeroot"
)

var _ executor.Mountless = (*Executor)(nil)

// Executor runs processes under a supervisor. It is made by New and safe for concurrent use.
type Executor struct{ dir string }

// Options are the choices of an Executor.
type Options struct {
	// Dir is a directory for what running processes need: copies of programs, /dev, tmpfs. It is made, private to the user, if it does not
	// exist. Its file system must allow programs to be executed.
	Dir string
}

// New returns an Executor.
func New(o Options) (*Executor, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("preparing the executor's directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, programsDir), 0o700); err != nil {
		return nil, fmt.Errorf("preparing the executor's directory: %w", err)
	}
	return &Executor{dir: dir}, nil
}

const programsDir = "programs"

// Close removes what New and Run have made. No process may be running.
func (e *Executor) Close() error {
	if err := os.RemoveAll(filepath.Join(e.dir, programsDir)); err != nil {
		return fmt.Errorf("removing the executor's directory: %w", err)
	}
	return nil
}

// Name returns "ptrace".
func (e *Executor) Name() string { return "ptrace" }

// Mountless implements executor.Mountless.
func (e *Executor) Mountless() {}

// Run implements executor.Executor. A command that does not exist or cannot be executed is, as for a shell, an
// *executor.ExitError of 127 or 126 with the reason.
func (e *Executor) Run(ctx context.Context, spec executor.Spec) (err error) {
	if err := process.Check(spec); err != nil {
		return err
	}
	name := spec.Process.Args[0]
	if err := supported(spec); err != nil {
		return fmt.Errorf("running %q: %w", name, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("running %q: %w", name, context.Cause(ctx))
	}
	dir, err := os.MkdirTemp(e.dir, "run-")
	if err != nil {
		return fmt.Errorf("preparing to run %q: %w", name, err)
	}
	r := &run{Executor: e, spec: spec, dir: dir, owners: []*fakeroot.Table{rootTable: spec.Owners, ownTable: fakeroot.New()}}
	if spec.Owners == nil {
		r.owners[rootTable] = fakeroot.New()
	}
	defer func() { err = errors.Join(err, r.cleanUp()) }()
	streams, err := newStreams(spec.Process)
	if err != nil {
		return fmt.Errorf("running %q: %w", name, err)
	}
	r.terminal = streams.pty
	if err := r.prepare(); err != nil {
		return errors.Join(err, streams.abort())
	}
	return r.do(ctx, streams)
}

// supported refuses what only namespaces give.
func supported(spec executor.Spec) error {
	if spec.Network == executor.NetworkNone {
		return errors.New("--network=none needs a network namespace, which --isolation=ptrace does not have")
	}
	if spec.Security == executor.SecurityInsecure {
		return errors.New("--security=insecure needs capabilities, which --isolation=ptrace does not have")
	}
	if spec.ShmSize > 0 {
		return errors.New("--shm-size needs a mount, which --isolation=ptrace does not have")
	}
	for _, m := range spec.Mounts {
		if m.Type == executor.Tmpfs && m.Size > 0 {
			return fmt.Errorf("mounting %s: a tmpfs with a size needs a mount, which --isolation=ptrace does not have", m.Target)
		}
	}
	return nil
}

// run is one process on its way.
type run struct {
	*Executor
	spec   executor.Spec
	dir    string
	owners []*fakeroot.Table
	job    job
	stubs  []stub
	// terminal is the name of the process's terminal on this machine, "" without one.
	terminal string
}

// The first tables of owners: of the root filesystem, and of what is gone with the run. Those of mounts follow.
const (
	rootTable = iota
	ownTable
)

// marshal encodes tables of owners for the other side of the socket.
func marshal(tables []*fakeroot.Table) ([][]byte, error) {
	var out [][]byte
	for _, t := range tables {
		b, err := t.MarshalBinary()
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// do starts a supervisor and waits for its report.
func (r *run) do(ctx context.Context, streams *streams) error {
	name := r.spec.Process.Args[0]
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errors.Join(fmt.Errorf("running %q: %w", name, err), streams.abort())
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "supervisor"), os.NewFile(uintptr(fds[1]), "executor")
	defer ours.Close()
	cmd := exec.Command("/proc/self/exe", supervisorName)
	cmd.Env = []string{marker + "=1"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.stdin, streams.stdout, streams.stderr
	cmd.ExtraFiles = []*os.File{theirs}
	// Not in the caller's process group: what a terminal sends reaches the processes by way of the builder.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = withLateTimers(cmd.Start)
	theirs.Close()
	streams.started()
	if err != nil {
		return errors.Join(fmt.Errorf("starting the supervisor of %q: %w", name, err), streams.abort())
	}
	orders := gob.NewEncoder(ours)
	err = orders.Encode(r.job)
	var last report
	if err == nil {
		last, err = r.follow(ctx, orders, gob.NewDecoder(ours))
	}
	ours.Close() // which ends the supervisor, if it has not ended
	ended := cmd.Wait()
	ioErr := streams.Finish()
	if err != nil && ended != nil {
		err = fmt.Errorf("%w (%w)", err, ended)
	}
	if err != nil {
		return fmt.Errorf("running %q: %w", name, err)
	}
	err = r.outcome(ctx, last)
	if err == nil && ioErr != nil {
		err = fmt.Errorf("copying the output of %q: %w", name, ioErr)
	}
	return err
}

// outcome turns the supervisor's last report into the error of Run, and takes over the owners.
func (r *run) outcome(ctx context.Context, last report) error {
	name := r.spec.Process.Args[0]
	for i, b := range last.Owners {
		if err := r.owners[i].UnmarshalBinary(b); err != nil {
			return err
		}
	}
	if _, stopped := errors.AsType[*executor.Stop](context.Cause(ctx)); ctx.Err() != nil && !stopped {
		return fmt.Errorf("running %q: %w", name, context.Cause(ctx))
	}
	switch {
	case last.Error != "" && last.Code != 0:
		return &executor.ExitError{Code: last.Code, Reason: last.Error}
	case last.Error != "":
		return fmt.Errorf("running %q: %s", name, last.Error)
	case last.Signal != 0:
		return &executor.ExitError{Code: 128 + last.Signal, Signal: last.Signal}
	case last.Exit != 0:
		return &executor.ExitError{Code: last.Exit}
	}
	return nil
}

// defaultGrace is Spec.Grace where it is 0, as long as docker waits.
const defaultGrace = 10 * time.Second

// follow waits for the last report, and has the processes end when ctx does: a signal to all, and SIGKILL after the grace.
func (r *run) follow(ctx context.Context, orders *gob.Encoder, reports *gob.Decoder) (report, error) {
	type read struct {
		report
		err error
	}
	reads := make(chan read)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			var next read
			next.err = reports.Decode(&next.report)
			select {
			case reads <- next:
			case <-done:
				return
			}
			if next.err != nil || !next.Started {
				return
			}
		}
	}()
	ended := ctx.Done()
	var over <-chan time.Time
	for {
		select {
		case next := <-reads:
			if next.err != nil {
				return report{}, fmt.Errorf("the supervisor has ended: %w", next.err)
			}
			if !next.Started {
				return next.report, nil
			}
			if r.spec.Started != nil {
				r.spec.Started()
			}
		case <-ended:
			ended = nil
			how := stopOf(ctx, r.spec)
			if how.Grace <= 0 {
				how.Signal = int(unix.SIGKILL)
			}
			over = time.After(how.Grace)
			_ = orders.Encode(order{Signal: how.Signal})
		case <-over:
			over = time.After(time.Second)
			_ = orders.Encode(order{Signal: int(unix.SIGKILL)})
		}
	}
}

// stopOf says in which way a context that has ended wants the process to end.
func stopOf(ctx context.Context, spec executor.Spec) executor.Stop {
	s := executor.Stop{Grace: spec.Grace}
	if asked, ok := errors.AsType[*executor.Stop](context.Cause(ctx)); ok {
		if s = *asked; s.Signal == 0 {
			s.Signal = spec.StopSignal
		}
	} else if s.Grace <= 0 {
		s.Grace = defaultGrace
	}
	if s.Signal == 0 {
		s.Signal = int(unix.SIGTERM)
	}
	return s
}
