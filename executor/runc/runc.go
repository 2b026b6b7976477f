// Package runc runs processes with runc's libcontainer, inside the place that pkg/userns makes.
// It is the executor for every place where mounts and pid namespaces are allowed.
//
// The process gets what `docker build` gives a RUN step: its own pid, mount, ipc and uts namespaces, docker's default
// capabilities and seccomp profile, masked and read-only paths, a /dev of its own, and /etc/hosts and /etc/resolv.conf
// mounted read-only so that they never end up in a layer. Three things differ, each on purpose:
//
//   - No control group is made: none is delegated to an ordinary user, and one would outlive a killed build. What the
//     devices controller forbids is forbidden by mounting everything nodev where the kernel does not do so already.
//   - Syncs answer success without being carried out: the root filesystem is scratch until the caller commits it.
//     Options.Syncs turns that off.
//   - A process that has no use for SIGTERM is not kept waiting for: see stop.
//
// Importing the package is enough for a program, or a test binary, to serve as libcontainer's own init.
package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // makes the namespaces, in C, before Go's runtime starts
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/process"
	"github.com/cairn-build/cairn/executor/sandbox"
	"github.com/cairn-build/cairn/pkg/userns"
)

// The second process that libcontainer starts is this program with the argument "init".
var _ = userns.Entry("init", "_LIBCONTAINER_INITPIPE", libcontainer.Init)

var _ executor.Executor = (*Executor)(nil)

// Executor runs processes with libcontainer. It is made by New and safe for concurrent use.
type Executor struct {
	dir   string
	syncs bool
	place sandbox.Place

	seccomp sync.Map // capabilities, joined → *configs.Seccomp
}

// Options are the choices of an Executor.
type Options struct {
	// Dir is a directory for the state of running processes. It is made, private to the user, if it does not exist. Only
	// one Executor may use it at a time. A tmpfs is mounted there, so nothing of it is ever on disk.
	Dir string
	// Syncs has fsync and its kin carried out; the default answers them with success at once.
	Syncs bool
}

// New returns an Executor. It works only inside the place that userns.Enter makes: the mounts it needs must be nobody
// else's, and must be gone however this program ends.
func New(o Options) (*Executor, error) {
	if !userns.Inside() {
		return nil, errors.New("preparing to run processes: not in namespaces of its own (call userns.Enter first)")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("preparing the executor's directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("preparing the executor's directory: %w", err)
	}
	// libcontainer refuses a root whose path has a symbolic link in it.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("preparing the executor's directory: %w", err)
	}
	p, err := sandbox.Probe()
	if err != nil {
		return nil, err
	}
	if p.MountSetattr {
		// libcontainer makes and joins control groups wherever it can write. It has none of ours to manage, what it
		// makes would outlive a killed build, and one look at a read-only tree is cheaper than a dozen mkdirs.
		_ = unix.MountSetattr(-1, "/sys/fs/cgroup", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
		return nil, fmt.Errorf("mounting the executor's directory %s: %w", dir, err)
	}
	return &Executor{dir: dir, syncs: o.Syncs, place: p}, nil
}

// Close gives back what New took. No process may be running.
func (e *Executor) Close() error {
	if err := unix.Unmount(e.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting the executor's directory: %w", err)
	}
	return nil
}

// Name returns "runc".
func (e *Executor) Name() string { return "runc" }

// runPrefix begins the name of the directory of one run.
const runPrefix = "run-"

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
	if err != nil {
		return fmt.Errorf("opening the root filesystem: %w", err)
	}
	root, err := os.OpenFile(rootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the root filesystem: %w", err)
	}
	defer root.Close()

	dir, err := os.MkdirTemp(e.dir, runPrefix)
	if err != nil {
		return fmt.Errorf("preparing to run %q: %w", spec.Process.Args[0], err)
	}
	r := &run{Executor: e, spec: spec, root: root, rootPath: rootPath, dir: dir, points: sandbox.MountPoints{Root: root}}
	err = r.do(ctx)
	return errors.Join(err, r.cleanUp())
}

// run is one process on its way.
type run struct {
	*Executor
	spec     executor.Spec
	root     *os.File // O_PATH
	rootPath string
	dir      string

	points  sandbox.MountPoints
	mounted []string // mounted in this process's own namespace, below dir
}

func (r *run) do(ctx context.Context) error {
	u, err := process.LookupUser(r.root, r.spec.Process.User)
	if err != nil {
		return err
	}
	if err := r.place.CheckUser(u); err != nil {
		return err
	}
	cfg, err := r.config()
	if err != nil {
		return err
	}
	c, err := libcontainer.Create(r.dir, "container", cfg)
	if err != nil {
		return fmt.Errorf("creating the container: %w", err)
	}
	proc := &libcontainer.Process{
		Init:             true,
		Args:             r.spec.Process.Args,
		Env:              process.Environment(r.spec.Process.Env, u.Home),
		Cwd:              r.spec.Process.Dir,
		UID:              u.Uid,
		GID:              u.Gid,
		AdditionalGroups: append([]int{u.Gid}, u.Sgids...),
	}
	if proc.Cwd == "" {
		proc.Cwd = "/"
	}
	if proc.Rlimits, err = rlimits(r.spec.Ulimits); err != nil {
		return err
	}
	io, err := sandbox.NewStreams(r.spec.Process)
	if err != nil {
		return fmt.Errorf("running %q: %w", proc.Args[0], err)
	}
	connect(proc, io)
	var ours sandbox.Container
	if err = c.Start(proc); err == nil {
		ours, err = containerOf(proc)
	}
	if err == nil {
		err = c.Exec()
	}
	io.Started()
	if err != nil {
		_ = io.Finish()
		_ = c.Destroy()
		return startError(proc.Args[0], err)
	}
	if r.spec.Started != nil {
		r.spec.Started()
	}
	err = ours.Wait(ctx, r.spec, libProcess{proc})
	ioErr := io.Finish()
	if derr := c.Destroy(); derr != nil && err == nil {
		err = fmt.Errorf("removing the container: %w", derr)
	}
	if err == nil && ioErr != nil {
		err = fmt.Errorf("copying the output of %q: %w", proc.Args[0], ioErr)
	}
	return err
}

// connect gives a process its streams.
func connect(proc *libcontainer.Process, s *sandbox.Streams) {
	if s.Terminal != nil {
		proc.ConsoleSocket = s.Terminal.Socket
		proc.ConsoleWidth, proc.ConsoleHeight = s.Terminal.Width, s.Terminal.Height
		return
	}
	if s.Stdin != nil {
		proc.Stdin = s.Stdin
	}
	proc.Stdout, proc.Stderr = s.Stdout, s.Stderr
}

// containerOf is what is known of a container while its process waits to be executed.
func containerOf(proc *libcontainer.Process) (sandbox.Container, error) {
	pid, err := proc.Pid()
	if err != nil {
		return sandbox.Container{}, err
	}
	return sandbox.ContainerOf(pid), nil
}

// libProcess is libcontainer's process as a sandbox.Proc.
type libProcess struct{ *libcontainer.Process }

func (p libProcess) Kill() { _ = p.Signal(unix.SIGKILL) }

// cleanUp removes what was made in the root filesystem and around it.
func (r *run) cleanUp() error {
	err := r.points.Remove()
	for _, m := range r.mounted {
		if uerr := unix.Unmount(m, unix.MNT_DETACH); uerr != nil {
			// Whatever is still mounted must not be removed with the directory.
			return errors.Join(err, fmt.Errorf("unmounting %s: %w", m, uerr))
		}
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

// startError tells a command that cannot be executed from a failure of ours. libcontainer's init reports both as text
// over a pipe; what is searched for are the words of Go's exec.LookPath.
func startError(name string, err error) error {
	text := err.Error()
	i := strings.LastIndex(text, "exec: ")
	if i < 0 {
		return fmt.Errorf("running %q: %w", name, err)
	}
	text = strings.TrimSpace(text[i:])
	for _, s := range []string{"executable file not found in $PATH", "no such file or directory", "not a directory"} {
		if strings.HasSuffix(text, s) {
			return &executor.ExitError{Code: 127, Reason: text}
		}
	}
	for _, s := range []string{"permission denied", "is a directory"} {
		if strings.HasSuffix(text, s) {
			return &executor.ExitError{Code: 126, Reason: text}
		}
	}
	return fmt.Errorf("running %q: %w", name, err)
}
