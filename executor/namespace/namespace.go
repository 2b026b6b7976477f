// Package namespace runs processes in namespaces made by this program itself, inside the place that pkg/userns makes. It does what package
// runc does, and passes the same tests, at a fraction of the cost: for each command one process is made, which prepares its own sandbox and
// then executes the command.
//
// What the process does before that is a list of some hundred system calls (program), put together here and carried out by a copy of the
// launcher, a second process of this program that is started with the first command and then kept.
//
// Importing the package is enough for a program, or a test binary, to serve as the launcher.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/fakeid"
	"github.com/cairn-build/cairn/executor/process"
	"github.com/cairn-build/cairn/executor/sandbox"
	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/userns"
)

var _ executor.Executor = (*Executor)(nil)

// Executor runs processes in namespaces. It is made by New and safe for concurrent use.
type Executor struct {
	dir   string
	syncs bool
	place sandbox.Place
	// kcore says whether /proc/kcore exists, to which docker's /dev has a link.
	kcore bool
	// imitates is what system calls are answered for.
	imitates imitation

	filters sync.Map // capabilities, joined → filter

	mu       sync.Mutex
	launcher *launcher
	// files are the paths of files in dir by their content.
	files map[string]string
}

// Options are the choices of an Executor.
type Options struct {
	// Dir is a directory for the files of running processes. It is made, private to the user, if it does not exist. Only
	// one Executor may use it at a time. A tmpfs is mounted there with the first command, so nothing of it is ever on disk.
	Dir string
	// Syncs has fsync and its kin carried out; the default answers them with success at once.
	Syncs bool
}

// New returns an Executor. It works only inside the place that userns.Enter makes. An error says what is missing here: package runc needs
// less.
func New(o Options) (*Executor, error) {
	if !userns.Inside() {
		return nil, errors.New("preparing to run processes: not in namespaces of its own (call userns.Enter first)")
	}
	if err := Supported(); err != nil {
		return nil, err
	}
	p, err := sandbox.Probe()
	switch {
	case err != nil:
		return nil, err
	case !p.MountSetattr:
		return nil, errors.New("preparing to run processes: this kernel has no mount_setattr (Linux 5.12)")
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil && files.Cur <= terminalFD {
		return nil, fmt.Errorf("preparing to run processes: %d open files are allowed, and %d are needed", files.Cur, terminalFD+1)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("preparing the executor's directory: %w", err)
	}
	e := &Executor{dir: dir, syncs: o.Syncs, place: p, files: map[string]string{}}
	if e.imitates, err = imitationFor(p); err != nil {
		return nil, err
	}
	_, err = os.Lstat("/proc/kcore")
	e.kcore = err == nil
	return e, nil
}

// Name returns "namespace".
func (e *Executor) Name() string { return "namespace" }

// Close gives back what the first command took. No process may be running.
func (e *Executor) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.launcher == nil {
		return nil
	}
	err := e.launcher.close()
	e.launcher = nil
	if uerr := unix.Unmount(e.dir, unix.MNT_DETACH); uerr != nil {
		err = errors.Join(err, fmt.Errorf("unmounting the executor's directory: %w", uerr))
	}
	return err
}

// start makes what the first command needs and every other one uses.
func (e *Executor) start() (*launcher, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.launcher != nil {
		return e.launcher, nil
	}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, fmt.Errorf("preparing the executor's directory: %w", err)
	}
	if err := unix.Mount("tmpfs", e.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
		return nil, fmt.Errorf("mounting the executor's directory %s: %w", e.dir, err)
	}
	l, err := startLauncher()
	if err != nil {
		return nil, errors.Join(err, unix.Unmount(e.dir, unix.MNT_DETACH))
	}
	e.launcher = l
	return l, nil
}

// file returns the path of a file with some content, to be mounted read-only: the same for everyone who asks for the same.
func (e *Executor) file(content string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if path, ok := e.files[content]; ok {
		return path, nil
	}
	f, err := os.CreateTemp(e.dir, "file-")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return "", err
	}
	e.files[content] = f.Name()
	return f.Name(), nil
}

// run is one process on its way.
type run struct {
	*Executor
	launcher *launcher
	spec     executor.Spec
	rootPath string
	points   sandbox.MountPoints
	// imitates is the Executor's, for this run.
	imitates imitation
	// answers is nil where no call is answered.
	answers *fakeid.Supervisor
	// owners are those of mounts, by where they are.
	owners map[string]*fakeroot.Table
	// forget takes back what was said of files that are gone with the run.
	forget []func()
}

// Run implements executor.Executor. A command that does not exist or cannot be executed is, as for a shell, an
// *executor.ExitError of 127 or 126 with the reason.
func (e *Executor) Run(ctx context.Context, spec executor.Spec) error {
	if err := process.Check(spec); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("running %q: %w", spec.Process.Args[0], context.Cause(ctx))
	}
	rootPath, err := filepath.EvalSymlinks(spec.Root)
	if err == nil {
		rootPath, err = filepath.Abs(rootPath)
	}
	if err != nil {
		return fmt.Errorf("opening the root filesystem: %w", err)
	}
	root, err := os.OpenFile(rootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the root filesystem: %w", err)
	}
	defer root.Close()
	l, err := e.start()
	if err != nil {
		return err
	}
	r := &run{Executor: e, launcher: l, spec: spec, rootPath: rootPath, points: sandbox.MountPoints{Root: root}, imitates: e.imitates,
		owners: map[string]*fakeroot.Table{}}
	if r.imitates == devices && r.insecure() {
		r.imitates = nothing // it has no filter at all
	}
	err = r.do(ctx)
	return errors.Join(err, r.points.Remove())
}

func (r *run) do(ctx context.Context) error {
	s, err := sandbox.NewStreams(r.spec.Process)
	if err != nil {
		return fmt.Errorf("running %q: %w", r.spec.Process.Args[0], err)
	}
	c, err := r.begin(s)
	s.Started()
	if err != nil {
		return errors.Join(err, r.stopAnswering(), s.Finish())
	}
	if r.spec.Started != nil {
		r.spec.Started()
	}
	err = c.container.Wait(ctx, r.spec, c)
	if broken := r.stopAnswering(); broken != nil {
		err = fmt.Errorf("running %q: %w", r.spec.Process.Args[0], broken) // which also is why the process was killed
	}
	if serr := s.Finish(); err == nil && serr != nil {
		err = fmt.Errorf("copying the output of %q: %w", r.spec.Process.Args[0], serr)
	}
	return err
}

// child is a process as a sandbox.Proc, and those that it starts.
type child struct {
	*os.Process
	container sandbox.Container
}

func (c child) Kill() { _ = c.Signal(unix.SIGKILL) }

// begin starts the command and returns its process.
func (r *run) begin(s *sandbox.Streams) (child, error) {
	name := r.spec.Process.Args[0]
	p, err := r.program(s)
	if err != nil {
		return child{}, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return child{}, fmt.Errorf("running %q: %w", name, os.NewSyscallError("socketpair", err))
	}
	from, to := os.NewFile(uintptr(pair[0]), "report"), os.NewFile(uintptr(pair[1]), "report")
	defer from.Close()
	fd := int(to.Fd())
	fds := [maxFDs]int{fd, fd, fd, fd}
	if s.Terminal != nil {
		fds[regStdin] = int(s.Terminal.Socket.Fd())
	} else {
		if s.Stdin != nil {
			fds[regStdin] = int(s.Stdin.Fd())
		}
		fds[regStdout], fds[regStderr] = int(s.Stdout.Fd()), int(s.Stderr.Fd())
	}
	pid, err := r.launcher.start(p, r.cloneFlags(), fds)
	to.Close()
	if err != nil {
		return child{}, fmt.Errorf("running %q: %w", name, err)
	}
	c := child{}
	if c.Process, err = os.FindProcess(pid); err != nil {
		return child{}, fmt.Errorf("waiting for %q: %w", name, err)
	}
	ended, err := r.follow(p, int(from.Fd()), &c)
	if err == nil {
		return c, nil
	}
	if !ended {
		c.Kill()
	}
	_, _ = c.Wait()
	return child{}, err
}

func (r *run) cloneFlags() uint64 {
	flags := uint64(unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if !r.place.SharedProc {
		flags |= unix.CLONE_NEWPID
	}
	if r.place.Cgroup2 {
		flags |= unix.CLONE_NEWCGROUP
	}
	if r.spec.Network == executor.NetworkNone {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

// follow listens to the process until it executes the command. With an error, ended says whether it has ended by itself.
func (r *run) follow(p *program, from int, c *child) (ended bool, err error) {
	name := r.spec.Process.Args[0]
	for {
		reports, oob := make([]report, 1), make([]byte, unix.CmsgSpace(4))
		n, oobn, err := receive(from, raw(reports), oob)
		switch {
		case err != nil:
			return false, fmt.Errorf("running %q: reading its report: %w", name, err)
		case n == 0: // closed by the execution
			if c.container == (sandbox.Container{}) {
				c.container = sandbox.ContainerOf(c.Pid)
			}
			return false, nil
		case n == len(raw(reports)):
			return true, r.startError(p, reports[0])
		}
		// It waits to be told to go on.
		c.container = sandbox.ContainerOf(c.Pid)
		if err := r.answer(oob[:oobn], c.Pid); err != nil {
			return false, fmt.Errorf("running %q: %w", name, err)
		}
		if _, err := unix.Write(from, []byte{0}); err != nil {
			return false, fmt.Errorf("running %q: %w", name, err)
		}
	}
}

func receive(from int, b, oob []byte) (n, oobn int, err error) {
	for {
		if n, oobn, _, _, err = unix.Recvmsg(from, b, oob, unix.MSG_CMSG_CLOEXEC); !errors.Is(err, unix.EINTR) {
			return n, oobn, err
		}
	}
}

// program puts together what the process does.
func (r *run) program(s *sandbox.Streams) (*program, error) {
	u, err := process.LookupUser(r.points.Root, r.spec.Process.User)
	if err != nil {
		return nil, err
	}
	if r.imitates != everything {
		if err := r.place.CheckUser(u); err != nil {
			return nil, err
		}
	}
	r.prepareAnswers(s, u)
	p := &program{}
	p.call("making a session", unix.SYS_SETSID)
	r.root(p)
	if err := r.system(p); err != nil {
		return nil, err
	}
	if err := r.mounts(p); err != nil {
		return nil, err
	}
	r.enter(p)
	if err := r.names(p); err != nil {
		return nil, err
	}
	r.streams(p, s, u)
	// Descriptors have been numbered as high as a limit of open files may not go.
	if err := r.limits(p); err != nil {
		return nil, err
	}
	r.workingDirectory(p)
	if err := r.identity(p, u); err != nil {
		return nil, err
	}
	if err := r.command(p, u.Home); err != nil {
		return nil, err
	}
	p.align()
	return p, nil
}

// startError is the error of a process that could not execute its command.
func (r *run) startError(p *program, rep report) error {
	if int(rep.index) >= len(p.failures) {
		return fmt.Errorf("running %q: the process ended in an unknown way", r.spec.Process.Args[0])
	}
	f, errno := p.failures[rep.index], syscall.Errno(rep.errno)
	switch f.kind {
	case failedSearch:
		return &executor.ExitError{Code: 127, Reason: f.text + "executable file not found in $PATH"}
	case failedLookup:
		switch errno {
		case unix.ENOENT, unix.ENOTDIR:
			return &executor.ExitError{Code: 127, Reason: f.text + errno.Error()}
		case unix.EACCES, unix.EISDIR:
			return &executor.ExitError{Code: 126, Reason: f.text + errno.Error()}
		}
	case failedExec:
		return &executor.ExitError{Code: 255, Reason: f.text + errno.Error()}
	case failedSetup:
	}
	return fmt.Errorf("running %q: %s: %w", r.spec.Process.Args[0], f.text, errno)
}

// The encoding of a program takes this for granted.
var _ [unsafe.Sizeof(op{}) % 8]struct{} = [0]struct{}{}
