package ptrace

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// job is one run, as the executor gives it to its supervisor.
type job struct {
	// Mounts begin with the root filesystem.
	Mounts   mountTable
	Programs string // the directory of programs
	Process  start
	// Name is the command as it was given, to be looked for in Path.
	Name, Path string
	UID, GID   uint32
	Groups     []uint32
	Hostname   string
	// Owners are the tables of owners, by mount.Table.
	Owners [][]byte
	// TimerSlack is the builder's, which tasks are to have: the supervisor's is another.
	TimerSlack uintptr
}

// order is what the executor wants while a job runs.
type order struct{ Signal int }

// report is what the supervisor tells: first that the process runs, or why it does not, then how it ended.
type report struct {
	Started bool
	// Error says why nothing ran; Code is 127 or 126 if that was the command's fault, 255 if the kernel would not execute it.
	Error string
	Code  int
	// Exit and Signal are of the process.
	Exit, Signal int
	// Owners are as in the job, as they are at the end.
	Owners [][]byte
}

// supervisor is the work of one job: threads that answer calls, and one that traces.
type supervisor struct {
	job      job
	pid      int
	mounts   mountTable
	tasks    *taskTable
	peers    identity.Peers
	owners   []*fakeroot.Table
	programs *programs
	handlers map[int]handler
	rewrites map[int]rewrite
	listener notify.Listener
	reports  *gob.Encoder

	plain     plainPaths
	unsharing sync.Mutex
	remarks   sync.Map
}

// remark tells once, where the process's own errors go, what it could not have here.
func (s *supervisor) remark(text string) {
	if _, told := s.remarks.LoadOrStore(text, true); !told {
		fmt.Fprintln(os.Stderr, "cairn: "+text)
	}
}

// workers is how many threads answer calls. Few are at work at once; each that waits is one the kernel can wake at once.
const workers = 6

// controlSocket is the descriptor by which the supervisor and the executor talk. Its end is the end of the builder, and of all here.
const controlSocket = 3

func superviseMain() {
	debug.SetGCPercent(800)
	runtime.GOMAXPROCS(workers + 2)
	unix.Umask(0)
	sock := os.NewFile(controlSocket, "executor")
	unix.CloseOnExec(controlSocket)
	orders := gob.NewDecoder(sock)
	var j job
	if err := orders.Decode(&j); err != nil {
		syscall.Exit(1)
	}
	s := &supervisor{
		job: j, pid: os.Getpid(), mounts: j.Mounts, tasks: &taskTable{tasks: map[int]*task{}},
		programs: &programs{dir: j.Programs, originals: map[string]string{}}, handlers: handlers(), rewrites: traced(),
		reports: gob.NewEncoder(sock),
	}
	go s.obey(orders)
	r, err := s.supervise()
	if err != nil {
		r.Error = err.Error()
		if exit, ok := errors.AsType[*commandError](err); ok {
			r.Code = exit.code
		}
	}
	if err := s.reports.Encode(r); err != nil {
		syscall.Exit(1) // nobody waits for it any more
	}
	syscall.Exit(0)
}

// obey carries orders out. When none can come any more, nobody waits for the job: EXITKILL ends it.
func (s *supervisor) obey(orders *gob.Decoder) {
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			syscall.Exit(1)
		}
		for _, id := range s.tasks.groups() {
			if err := gone(unix.Kill(id, unix.Signal(o.Signal))); err != nil {
				s.abort(fmt.Errorf("sending signal %d: %w", o.Signal, err))
			}
		}
	}
}

// commandError is a command that cannot be executed, with the exit code for it.
type commandError struct {
	text string
	code int
}

func (e *commandError) Error() string { return e.text }

func (s *supervisor) supervise() (report, error) {
	for _, b := range s.job.Owners {
		t := fakeroot.New()
		if err := t.UnmarshalBinary(b); err != nil {
			return report{}, err
		}
		s.owners = append(s.owners, t)
	}
	for _, m := range s.mounts {
		m.owners = s.owners[m.Table]
	}
	if err := s.mounts.open(); err != nil {
		return report{}, err
	}
	who := &task{id: 0, group: &group{umask: 0o022}}
	who.cred = identity.Credentials{UID: identity.Same(s.job.UID), GID: identity.Same(s.job.GID), Groups: s.job.Groups}
	if err := s.lookPath(who); err != nil {
		return report{}, err
	}
	runtime.LockOSThread()
	// What a thread has when it forks is what the other begins with, and what it may set again.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, s.job.TimerSlack, 0, 0, 0) // refused, it was refused before
	stub, sock, err := s.startStub(who)
	if err != nil {
		return report{}, err
	}
	said := make(chan started, 1)
	go s.await(sock, said)
	l := &loop{supervisor: s, main: stub, held: map[int]bool{}}
	if err := l.run(); err != nil {
		return report{}, err
	}
	if problem, ok := <-said; ok {
		return report{}, problem.describe(&s.job.Process)
	}
	var r report
	r.Exit, r.Signal = l.status.ExitStatus(), 0
	if l.status.Signaled() {
		r.Signal = int(l.status.Signal())
	}
	r.Owners, err = marshal(s.owners)
	return r, err
}

// startStub starts the first task and has it under ptrace before it does anything.
func (s *supervisor) startStub(who *task) (pid int, sock *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("starting the process: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "stub")
	defer theirs.Close()
	sock = os.NewFile(uintptr(fds[0]), "stub")
	cmd := exec.Command("/proc/self/exe", stubName)
	cmd.Env = []string{marker + "=1"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, nil, fmt.Errorf("starting the process: %w", err)
	}
	pid = cmd.Process.Pid
	if err := ptraceRequest(unix.PTRACE_SEIZE, pid, 0, traceOptions); err != nil {
		return 0, nil, errors.Join(fmt.Errorf("tracing the process: %w", err), cmd.Process.Kill())
	}
	who.id, who.group.id = pid, pid
	s.tasks.put(pid, who)
	s.job.Process.Filter = instructions(s.notified(), s.rewritten())
	if err := gob.NewEncoder(sock).Encode(s.job.Process); err != nil {
		return 0, nil, fmt.Errorf("starting the process: %w", err)
	}
	// Whoever waits for the end of the output waits for the tasks only.
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("giving the streams away: opening /dev/null: %w", err)
	}
	defer unix.Close(null)
	for fd := range 2 {
		if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
			return 0, nil, fmt.Errorf("giving the streams away: %w", err)
		}
	}
	return pid, sock, nil
}

// notified and rewritten are the calls that the filter sends where always. Those that depend on an argument have instructions of their own.
func (s *supervisor) notified() []int {
	return slices.DeleteFunc(slices.Collect(maps.Keys(s.handlers)), func(nr int) bool { return nr == unix.SYS_PRCTL || opens(nr) })
}

func (s *supervisor) rewritten() []int {
	return slices.DeleteFunc(slices.Collect(maps.Keys(s.rewrites)), func(nr int) bool { return nr == unix.SYS_SENDTO || nr == unix.SYS_GETSOCKOPT || opens(nr) })
}

func opens(nr int) bool {
	return slices.ContainsFunc(openCalls(), func(o openCall) bool { return o.nr == nr })
}

// await takes the listener from the stub, has calls answered, and waits for the stub to become its program or to say why not.
func (s *supervisor) await(sock *os.File, said chan<- started) {
	defer close(said)
	defer sock.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	var b [1]byte
	var rest io.Reader = sock
	switch n, err := s.receive(sock, b[:], oob); {
	case errors.Is(err, unix.ECONNRESET):
		return // it was killed before it had read all
	case err != nil:
		s.abort(fmt.Errorf("receiving the seccomp listener: %w", err))
	case s.listener != 0:
		go s.serve()
	case n == 0:
		return // it was killed
	default: // it has no listener to give away, and says why
		rest = io.MultiReader(strings.NewReader(string(b[:n])), sock)
	}
	var problem started
	switch err := gob.NewDecoder(rest).Decode(&problem); {
	case err == nil:
		said <- problem
		return
	case err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, unix.ECONNRESET): // which comes with the program, or with the end
		s.abort(fmt.Errorf("starting the process: reading its report: %w", err))
	}
	if err := s.reports.Encode(report{Started: true}); err != nil {
		syscall.Exit(1) // nobody waits for it any more
	}
}

// receive reads from the stub, and takes the listener if it comes along. Under some profiles no other way is left to get at it.
func (s *supervisor) receive(sock *os.File, b, oob []byte) (int, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n, oobn int
	cerr := raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
		return err != unix.EAGAIN
	})
	if err = errors.Join(cerr, err); err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil || len(fds) != 1 {
			return n, errors.Join(unix.EPROTO, err)
		}
		s.listener = notify.Listener(fds[0])
	}
	return n, nil
}

// lookPath finds the command as exec.LookPath would in the root filesystem.
func (s *supervisor) lookPath(who *task) error {
	r := &resolver{supervisor: s, task: who}
	try := func(p string) error {
		r.links = 0
		at, err := r.find(unix.AT_FDCWD, p, true)
		if err != nil {
			return err
		}
		defer at.close()
		if at.isDir() {
			return unix.EISDIR
		}
		return r.mayExecute(&at)
	}
	name := s.job.Name
	if strings.Contains(name, "/") {
		p := name
		if !path.IsAbs(p) {
			p = path.Join(s.job.Process.Dir, p)
		}
		s.job.Process.Path = name
		switch err := try(p); {
		case err == nil:
			return nil
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return &commandError{fmt.Sprintf("exec: %q: stat %s: %v", name, p, err), 127}
		default:
			return &commandError{fmt.Sprintf("exec: %q: %v", name, err), 126}
		}
	}
	for dir := range strings.SplitSeq(s.job.Path, ":") {
		if !path.IsAbs(dir) {
			continue
		}
		if p := path.Join(dir, name); try(p) == nil {
			s.job.Process.Path = p
			return nil
		}
	}
	return &commandError{fmt.Sprintf("exec: %q: executable file not found in $PATH", name), 127}
}

// environment returns the last value of a variable.
func environment(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// describe is the error of a stub that could not become its program.
func (p started) describe(s *start) error {
	if p.Doing != "exec" {
		return fmt.Errorf("%s: %w", p.Doing, p.Errno)
	}
	return &commandError{fmt.Sprintf("exec %s: %v", s.Path, p.Errno), 255}
}
