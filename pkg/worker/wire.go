package worker

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

// request and answer are the messages of a call: one request, any number of events, one result or error.
type request struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

type answer struct {
	Event  json.RawMessage `json:"event,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// Kind is what kind of error an Error is, as far as a caller may want to know.
type Kind string

// The kinds of errors.
const (
	Other    Kind = ""
	NotFound Kind = "not found"    // matches fs.ErrNotExist
	Canceled Kind = "canceled"     // matches context.Canceled
	Exit     Kind = "exit"         // is an *executor.ExitError for errors.As
	Invalid  Kind = "invalid"      // what was asked for makes no sense
	Conflict Kind = "conflict"     // not in this state
	Refused  Kind = "not possible" // what was asked for cannot be done here
)

// Error is an error that came from the worker. errors.Is and errors.As see the sentinel or the *executor.ExitError that it was there.
type Error struct {
	Message string `json:"message"`
	Kind    Kind   `json:"kind,omitempty"`
	// ExitCode, Signal and Reason are those of a process that ended so, for Exit.
	ExitCode int    `json:"exitCode,omitempty"`
	Signal   int    `json:"signal,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// Excerpt shows the lines of the Dockerfile that a failed build is about.
	Text string `json:"excerpt,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Excerpt is the lines of the Dockerfile that a failed build is about, "" for other errors.
func (e *Error) Excerpt() string { return e.Text }

// StatusCode is the exit code of the process that failed, 0 for other errors.
func (e *Error) StatusCode() int { return e.ExitCode }

// Unwrap returns what the error was on the worker's side.
func (e *Error) Unwrap() error {
	switch e.Kind {
	case NotFound:
		return fs.ErrNotExist
	case Canceled:
		return context.Canceled
	case Exit:
		return &executor.ExitError{Code: e.ExitCode, Signal: e.Signal, Reason: e.Reason}
	}
	return nil
}

// Errorf-like constructors for services: an error of a kind.
type kindError struct {
	error
	kind Kind
}

func (e kindError) Unwrap() error { return e.error }

// WithKind gives an error a kind for the other side.
func WithKind(kind Kind, err error) error { return kindError{err, kind} }

// encodeError is an error as it travels.
func encodeError(err error) *Error {
	e := &Error{Message: err.Error()}
	var exit *executor.ExitError
	var kind kindError
	var passed *Error
	var excerpt interface{ Excerpt() string }
	if errors.As(err, &excerpt) {
		e.Text = excerpt.Excerpt()
	}
	switch {
	case errors.As(err, &kind):
		e.Kind = kind.kind
	case errors.As(err, &passed):
		e.Kind, e.ExitCode, e.Signal, e.Reason = passed.Kind, passed.ExitCode, passed.Signal, passed.Reason
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Kind = Canceled
	case errors.As(err, &exit):
		e.Kind, e.ExitCode, e.Signal, e.Reason = Exit, exit.Code, exit.Signal, exit.Reason
	case errors.Is(err, fs.ErrNotExist):
		e.Kind = NotFound
	}
	return e
}

// socketpair returns two connected sockets that no other program inherits.
func socketpair(kind int) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "worker"), nil
}

// unixConn makes a connection of a socket, which it takes over.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a unix socket")
	}
	return u, nil
}

// sendFiles sends one message that carries open files.
func sendFiles(c *net.UnixConn, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	_, _, err := c.WriteMsgUnix([]byte{'c'}, unix.UnixRights(fds...), nil)
	return err
}

// maxFiles is the kernel's limit of files in one message (SCM_MAX_FD).
const maxFiles = 253

// receiveFiles reads one message of sendFiles. The end of the connection is an error.
func receiveFiles(c *net.UnixConn) ([]*os.File, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, net.ErrClosed
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

// sendHello sends this process's pid as a credential, which the kernel checks, and translates for the reader's pid namespace.
func sendHello(c *net.UnixConn) error {
	cred := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())})
	_, _, err := c.WriteMsgUnix([]byte{'h'}, cred, nil)
	return err
}

// readHello waits for sendHello's message and returns the pid.
func readHello(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); err != nil {
		return 0, err
	}
	if serr != nil {
		return 0, os.NewSyscallError("setsockopt", serr)
	}
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || n == 0 || len(messages) != 1 {
		return 0, errors.Join(err, errors.New("the worker ended without a word"))
	}
	cred, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}
