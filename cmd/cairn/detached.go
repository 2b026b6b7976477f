package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// A container that is left running is a directory, ROOT/containers/ID, and a process: this program once more, in a session of its own, which
// runs the container as `cairn run` does, and writes down how it gets on.
//
//	state    what it is and how it ended, as JSON
//	process  the process's pid and start time, which together are nobody else's
//	lock     held by the process as long as it lives, which can be seen also where pids are others
//	log      the output, in the frames of Docker's API

// containerVar tells the process which directory is its own. readyFD is where it says "ok", or an exit code and why it cannot; lockFD is the lock.
const (
	containerVar = "_CAIRN_CONTAINER"
	readyFD      = 3
	lockFD       = 4
	stopGrace    = 10 * time.Second
)

// containerState is what is written down of a container.
type containerState struct {
	ID, Name, Image string
	Command         []string
	Created         time.Time
	Started         time.Time `json:",omitzero"`
	Finished        time.Time `json:",omitzero"`
	ExitCode        int
}

// detached is a container that was left running.
type detached struct {
	dir string
	containerState
}

func (d *detached) path(name string) string { return filepath.Join(d.dir, name) }

// save replaces the state.
func (d *detached) save() error {
	data, err := json.Marshal(d.containerState)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("state.new"), data, 0o600); err != nil {
		return err
	}
	return os.Rename(d.path("state.new"), d.path("state"))
}

// runDetached starts a container and prints its ID; in the process that keeps it, it runs it.
func (in invocation) runDetached(c *cli.Context, req *runRequest) error {
	if dir := in.env[containerVar]; dir != "" {
		return in.keep(c, req, dir)
	}
	list, err := in.detachedContainers(c)
	if err != nil {
		return notRun(err)
	}
	for _, d := range list {
		if req.name != "" && d.Name == req.name {
			return notRun(failf("there is a container %s already", req.name).withHint("cairn rm %s", req.name))
		}
	}
	d := &detached{containerState: containerState{
		ID: newContainerID(), Name: req.name, Image: req.image, Command: req.command, Created: time.Now().UTC(),
	}}
	if d.Name == "" {
		d.Name = d.ID[:12]
	}
	root, err := in.containersDir(c)
	if err != nil {
		return notRun(err)
	}
	d.dir = filepath.Join(root, d.ID)
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return notRun(err)
	}
	if err := in.launch(d); err != nil {
		err = errors.Join(err, os.RemoveAll(d.dir))
		if n, ok := errors.AsType[*notStarted](err); ok {
			return &cliError{err: err, code: n.code}
		}
		return notRun(err)
	}
	_, err = fmt.Fprintln(in.stdout, d.ID)
	return err
}

// newContainerID is 64 random hexadecimal digits, as Docker's are.
func newContainerID() string {
	var id [32]byte
	_, _ = rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// containersDir is where containers are kept: with all other state.
func (in invocation) containersDir(c *cli.Context) (string, error) {
	root, _ := in.stateDir(c)
	root, err := filepath.Abs(root)
	return filepath.Join(root, "containers"), err
}

// launch starts the process that keeps a container, and waits until it says that the container runs.
func (in invocation) launch(d *detached) error {
	lock, err := os.OpenFile(d.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	// The lock is there before anybody can see the container.
	if err := errors.Join(unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB), d.save()); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", in.args[1:]...)
	cmd.Args[0] = in.args[0]
	cmd.Env = append(in.env.list(), containerVar+"="+d.dir)
	cmd.ExtraFiles = []*os.File{w, lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("starting a container: %w", err)
	}
	started, err := startTime(cmd.Process.Pid)
	if err == nil {
		err = os.WriteFile(d.path("process"), fmt.Appendf(nil, "%d %s", cmd.Process.Pid, started), 0o600)
	}
	if err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	line, _ := bufio.NewReader(r).ReadString('\n')
	if line = strings.TrimSpace(line); line == "ok" {
		return nil
	}
	_ = cmd.Wait()
	number, text, _ := strings.Cut(line, " ")
	code, err := strconv.Atoi(number)
	if err != nil {
		return errors.New("the process that was to keep the container has ended: " + cmd.ProcessState.String())
	}
	return &notStarted{code, text}
}

// notStarted is why a container does not run, with the exit code for that.
type notStarted struct {
	code int
	text string
}

func (n *notStarted) Error() string { return n.text }

// keep is the life of the process that keeps a container.
func (in invocation) keep(c *cli.Context, req *runRequest, dir string) error {
	if done, err := in.enter(req.isolation); done {
		if err != nil && !isExited(err) {
			sayNotReady(exitNoRun, err.Error())
		}
		return notRun(err)
	}
	unix.CloseOnExec(lockFD) // the container is not to hold it
	d, err := readDetached(dir)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(d.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	var mu sync.Mutex
	req.spec.Process.Stdout, req.spec.Process.Stderr = &frameWriter{&mu, log, 1}, &frameWriter{&mu, log, 2}
	req.spec.DefaultHostname = d.ID[:12]
	req.spec.Started = func() {
		d.Started, d.Command = time.Now().UTC(), req.spec.Process.Args
		if err := d.save(); err != nil {
			sayNotReady(exitNoRun, err.Error())
			return
		}
		sayReady("ok")
	}
	// A signal stops the container, which then has an end of its own.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(c.Context))
	defer context.AfterFunc(c.Context, func() { cancel(&executor.Stop{Grace: stopGrace}) })()
	c.Context = ctx
	var said strings.Builder // of a command that could not be executed: the user reads it
	in.stderr = &said
	err = in.runImage(c, req)
	var code exited
	if errors.As(err, &code) {
		d.ExitCode = code.code
	} else if err != nil {
		d.ExitCode = exitNoRun
	}
	if d.Started.IsZero() && err != nil {
		text := strings.TrimPrefix(strings.TrimSpace(said.String()), "cairn: ")
		if text == "" {
			text = err.Error()
		}
		sayNotReady(d.ExitCode, text)
		return err
	}
	if req.remove {
		return os.RemoveAll(d.dir)
	}
	d.Finished = time.Now().UTC()
	return d.save()
}

// sayNotReady tells the process that the user started why the container does not run, and with which code that ends.
func sayNotReady(code int, text string) { sayReady(strconv.Itoa(code) + " " + text) }

// sayReady tells the process that the user started how the start went.
func sayReady(text string) {
	f := os.NewFile(readyFD, "ready")
	fmt.Fprintln(f, strings.ReplaceAll(text, "\n", "; "))
	f.Close()
}

// frameWriter writes one stream of a container's output to its log: STREAM 0 0 0 LENGTH(4 bytes, big-endian) DATA.
type frameWriter struct {
	mu     *sync.Mutex
	log    *os.File
	stream byte
}

func (w *frameWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	frame := make([]byte, 8, 8+len(p))
	frame[0] = w.stream
	binary.BigEndian.PutUint32(frame[4:], uint32(len(p)))
	if _, err := w.log.Write(append(frame, p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// readDetached reads what is written down of a container.
func readDetached(dir string) (*detached, error) {
	data, err := os.ReadFile(filepath.Join(dir, "state"))
	if err != nil {
		return nil, fmt.Errorf("reading container %s: %w", filepath.Base(dir), err)
	}
	d := &detached{dir: dir}
	if err := json.Unmarshal(data, &d.containerState); err != nil {
		return nil, fmt.Errorf("reading container %s: %w", filepath.Base(dir), err)
	}
	return d, nil
}

// process returns the process that keeps the container; nil if it has ended.
func (d *detached) process() *os.Process {
	data, err := os.ReadFile(d.path("process"))
	if err != nil {
		return nil
	}
	var pid int
	var started string
	if _, err := fmt.Sscan(string(data), &pid, &started); err != nil {
		return nil
	}
	if now, err := startTime(pid); err != nil || now != started {
		return nil // it is gone, and its number may be somebody else's
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil
	}
	return p
}

// running reports whether the process that keeps the container lives, in whatever namespace one asks.
func (d *detached) running() bool {
	f, err := os.Open(d.path("lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// startTime is when a process started, in the kernel's words (proc_pid_stat(5), field 22). A dead one has none.
func startTime(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	const state, start = 0, 19
	if len(fields) <= start || fields[state] == "Z" || fields[state] == "X" {
		return "", os.ErrProcessDone
	}
	return fields[start], nil
}
