// Package worker gives a running program a helper process in namespaces of its own.
//
// A Go program that is under way cannot enter a user namespace: it has threads. What needs one (mounting, changing owners, running
// containers) is therefore done by the program itself, executed a second time, in the place that package userns makes. Nothing is asked of
// the program for that: a package that registers a Service with Register serves it before main is reached.
//
//	importing program                                launcher              worker
//	──────────────────────────────────────────       ──────────────        ─────────────────────────────
//	Start: exec of /proc/self/exe, one socket ─────► userns.Enter ───────► says hello with its pid
//	Call: a new socket, passed over the first ───────────────────────────► one goroutine for each call
//	   request, open files  ─────────────────────────────────────────────►
//	   ◄──────────────────────────────────────────────── events, then the result or an error
//	   end of the request's direction: the call is cancelled
//	end of the first socket: everything ends ────────────────────────────► closes the Service, exits
//
// Requests, events and results are JSON; streams (a build context, a log) are pipes whose ends are passed along. Each Start makes a worker
// of its own. A worker whose program is gone, however it went, reads the end of its socket and ends, and the kernel takes what it ran.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// closePatience is how long a worker may take to end its containers and its store when it is asked to.
const closePatience = 20 * time.Second

// Worker is a running worker process. It is safe for concurrent use.
type Worker struct {
	control *net.UnixConn
	cmd     *exec.Cmd
	stderr  *tail
	pid     int

	exited chan struct{}
	once   sync.Once
	err    error
	sendMu sync.Mutex
}

// Start starts a worker that serves the Service registered under name. It returns when the worker is in its place; an error says, with a
// hint, why no such place can be made. ctx bounds the start only.
func Start(ctx context.Context, name string) (*Worker, error) {
	ours, theirs, err := socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	defer theirs.Close()
	control, err := unixConn(ours)
	if err != nil {
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	w := &Worker{control: control, stderr: &tail{}, exited: make(chan struct{})}
	w.cmd = command(name, theirs)
	w.cmd.Stderr = w.stderr
	if err := w.cmd.Start(); err != nil {
		control.Close()
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	go func() {
		_ = w.cmd.Wait()
		close(w.exited)
	}()
	theirs.Close()
	stop := context.AfterFunc(ctx, func() { control.Close() })
	w.pid, err = readHello(control)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		control.Close()
		<-w.exited
		return nil, w.startError(ctx, err)
	}
	return w, nil
}

// command is the program itself. It gets a process group of its own: a key press on the terminal is for the importing program to
// interpret, which ends its worker when it ends.
func command(name string, control *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", argument)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(cmd.Environ(), marker+"="+name)
	cmd.ExtraFiles = []*os.File{control}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func (w *Worker) startError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("starting a worker: %w", context.Cause(ctx))
	}
	if text := w.stderr.String(); text != "" {
		return fmt.Errorf("starting a worker: %s", text)
	}
	return fmt.Errorf("starting a worker: %w (%s)", err, w.cmd.ProcessState)
}

// PID is the worker's process as this program sees it: what it has mounted lies below /proc/PID/root.
func (w *Worker) PID() int { return w.pid }

// Close ends the worker with everything it runs and holds. It is idempotent.
func (w *Worker) Close() error {
	w.once.Do(func() {
		w.control.Close()
		select {
		case <-w.exited:
		case <-time.After(closePatience):
			_ = w.cmd.Process.Kill()
			<-w.exited
		}
		if !w.cmd.ProcessState.Success() {
			w.err = w.ended()
		}
	})
	return w.err
}

// ended is the error of a worker that is not there any more.
func (w *Worker) ended() error {
	text := "the worker process has ended"
	select {
	case <-w.exited:
		text += " (" + w.cmd.ProcessState.String() + ")"
	case <-time.After(time.Second):
	}
	if s := w.stderr.String(); s != "" {
		text += ": " + s
	}
	return fmt.Errorf("%w: %s", ErrEnded, text)
}

// ErrEnded is wrapped by the errors of calls to a worker that was closed or has died.
var ErrEnded = errors.New("no worker")

// Call is one request to a worker.
type Call struct {
	// Method names what is asked for, Params is its argument, anything that JSON can carry.
	Method string
	Params any
	// Files are handed to the worker. They stay the caller's to close.
	Files []*os.File
	// Result, unless nil, is a pointer that the answer is decoded into.
	Result any
	// Event is called with what the worker reports meanwhile, in order; nil drops it.
	Event func(json.RawMessage)
}

// Call carries out one request. When ctx ends, the worker is told and its answer is awaited: an *Error for which errors.Is(err,
// context.Canceled) holds, if it gave up.
func (w *Worker) Call(ctx context.Context, c Call) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", c.Method, context.Cause(ctx))
	}
	params, err := json.Marshal(c.Params)
	if err != nil {
		return fmt.Errorf("%s: encoding the request: %w", c.Method, err)
	}
	conn, err := w.dial(c.Files)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Method, errors.Join(w.ended(), err))
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.CloseWrite() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(request{Method: c.Method, Params: params}); err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", c.Method, w.ended())
	}
	for d := json.NewDecoder(conn); ; {
		var a answer
		switch err := d.Decode(&a); {
		case err != nil:
			return fmt.Errorf("%s: %w", c.Method, w.ended())
		case a.Event != nil:
			if c.Event != nil {
				c.Event(a.Event)
			}
		case a.Error != nil:
			return a.Error
		case c.Result != nil:
			return json.Unmarshal(a.Result, c.Result)
		default:
			return nil
		}
	}
}

// dial makes the socket of one call and passes its other end to the worker, with files.
func (w *Worker) dial(files []*os.File) (*net.UnixConn, error) {
	ours, theirs, err := socketpair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	conn, err := unixConn(ours)
	if err != nil {
		return nil, err
	}
	w.sendMu.Lock()
	defer w.sendMu.Unlock()
	if err := sendFiles(w.control, append([]*os.File{theirs}, files...)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// tail keeps the end of what a process writes.
type tail struct {
	mu   sync.Mutex
	data []byte
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - tailSize; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.data))
}

var _ io.Writer = (*tail)(nil)
