package userns

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stageVar carries the stage from one process to the next. It is removed from the environment as soon as it is read.
const stageVar = "_CAIRN_NAMESPACE_STAGE"

const (
	stageInit   = "init"
	stageWorker = "worker"

	// goAhead is outer's first byte to init: the id maps are written. Every later byte is the number of a signal.
	goAhead = 'G'

	reportReady  = "ready"
	reportNoProc = "noproc"
	reportError  = "error"

	// samePress is how far apart two copies of one key press or one group kill may arrive in two processes.
	samePress = 100 * time.Millisecond
)

// stage is what a process of the chain must know about itself.
type stage struct {
	kind             string
	initFD, workerFD int
	// parent is the pid of the process before this one, as that process sees itself.
	parent int
	mode   Mode
}

// env formats the stage as the environment variable that decode reads.
func (s stage) env() string {
	return fmt.Sprintf("%s=%s|%d|%d|%d|%t|%t|%s|%s", stageVar, s.kind, s.initFD, s.workerFD, s.parent,
		s.mode.Bare, s.mode.PID, s.mode.Map, strings.ReplaceAll(s.mode.Obstacle, "\n", "; "))
}

func decodeStage(v string) (stage, error) {
	f := strings.SplitN(v, "|", 8)
	if len(f) != 8 {
		return stage{}, fmt.Errorf("reading %s: malformed value %q", stageVar, v)
	}
	var nums [3]int
	for i := range nums {
		n, err := strconv.Atoi(f[1+i])
		if err != nil {
			return stage{}, fmt.Errorf("reading %s: %w", stageVar, err)
		}
		nums[i] = n
	}
	return stage{
		kind: f[0], initFD: nums[0], workerFD: nums[1], parent: nums[2],
		mode: Mode{Bare: f[4] == "true", PID: f[5] == "true", Map: IDMap(f[6]), Obstacle: f[7]},
	}, nil
}

// catch turns this process into the stage its environment names. It returns in an ordinary process and in the worker.
func catch() {
	v := os.Getenv(stageVar)
	if v == "" {
		return
	}
	os.Unsetenv(stageVar)
	s, err := decodeStage(v)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
	if s.kind == stageInit {
		s.runInit()
	}
	s.becomeWorker()
}

// runInit is init's whole life. It runs in the new namespaces and never returns. What capabilities it has it has only to hand on.
func (s stage) runInit() {
	unix.CloseOnExec(s.initFD)
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	if !s.mode.PID {
		// What RUN leaves behind comes to us instead of to the machine's init, so that it can be ended.
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	// Caught and dropped: this process is in the terminal's foreground group like the others. Ignoring them would be
	// inherited by the worker.
	pressed := make(chan os.Signal, 64)
	for _, sig := range forwarded() {
		if !signal.Ignored(sig) {
			signal.Notify(pressed, sig)
		}
	}
	if b, ok := readByte(s.initFD); !ok || b != goAhead {
		os.Exit(125)
	}
	runtime.LockOSThread()
	dropInheritable()
	w := s
	w.kind, w.parent = stageWorker, os.Getpid()
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env:   append(os.Environ(), w.env()),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		report(s.workerFD, reportError, fmt.Sprintf("executing the build process: %v", err))
		os.Exit(125)
	}
	unix.Close(s.workerFD)
	go s.forward(pid, pressed)
	code := reap(pid)
	if !s.mode.PID {
		killChildren()
	}
	os.Exit(code)
}

// forward passes on the signals that outer got and the worker did not. A key press, or a kill of the process group,
// reaches all three processes at once: then this one has had the signal too, and the worker must not get it twice (a
// second interrupt often means "at once").
func (s stage) forward(worker int, pressed <-chan os.Signal) {
	sent := make(chan unix.Signal)
	go func() {
		for {
			b, ok := readByte(s.initFD)
			if !ok {
				// Outer is dead. As pid 1, our end is everybody's end.
				_ = unix.Kill(worker, unix.SIGKILL)
				if s.mode.PID {
					os.Exit(128 + int(unix.SIGKILL))
				}
				return
			}
			sent <- unix.Signal(b)
		}
	}()
	seen := map[unix.Signal]time.Time{}
	for {
		select {
		case sig := <-pressed:
			seen[sig.(unix.Signal)] = time.Now()
		case sig := <-sent:
			deadline := time.After(samePress)
			for open := time.Since(seen[sig]) > samePress; open; {
				select {
				case p := <-pressed:
					seen[p.(unix.Signal)] = time.Now()
					open = p != sig
				case <-deadline:
					_ = unix.Kill(worker, sig)
					open = false
				}
			}
		}
	}
}

// reap collects every child that ends until the worker does, and returns the worker's exit code.
func reap(worker int) int {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 125
		case pid == worker && (ws.Exited() || ws.Signaled()):
			return exitCode(ws)
		}
	}
}

// killChildren ends what the worker left behind where no pid namespace does it: orphans become our children, and theirs
// do when they are gone.
func killChildren() {
	for {
		files, _ := filepath.Glob("/proc/self/task/*/children")
		for _, f := range files {
			b, _ := os.ReadFile(f)
			for _, p := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(p); err == nil {
					_ = unix.Kill(n, unix.SIGKILL)
				}
			}
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(-1, &ws, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// becomeWorker makes the process the worker: root of the place, whose mounts nobody else sees. It returns to the
// program's own start, or ends the process.
func (s stage) becomeWorker() {
	// During init this keeps the main goroutine on the main thread for good, and so every other one off it. Goroutines
	// that enter a container's mount namespace (libcontainer's do) end their thread with themselves, but the main thread
	// cannot be ended: it would stay in there, and with it what /proc/self shows.
	runtime.LockOSThread()
	unix.CloseOnExec(s.initFD)
	// What the user passed stays open for us ("-f /dev/fd/63"), and goes no further.
	_ = unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	unix.Close(s.initFD)
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	if os.Getppid() != s.parent {
		os.Exit(125)
	}
	if !s.mode.Bare {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			s.refuse(reportError, fmt.Sprintf("making mounts private in a new %s: %v", s.mode, err))
		}
	}
	if s.mode.PID {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			s.refuse(reportNoProc, fmt.Sprintf("mounting a new /proc: %v", err))
		}
	}
	report(s.workerFD, reportReady, "")
	mode := s.mode
	entered = &mode
	go func() {
		// Nothing is ever sent here; the end of file is outer's end. Init sees the same, this is for the case without
		// a pid namespace where init cannot take everything with it.
		readByte(s.workerFD)
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}()
}

// dropInheritable keeps the capabilities by which init was given its own (attempt.kept) from going further, to programs that are not root's
// (CVE-2022-24769). It is done to one thread: the one that executes the worker.
func dropInheritable() {
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) == nil {
		data[0].Inheritable, data[1].Inheritable = 0, 0
		_ = unix.Capset(&hdr, &data[0])
	}
}

// refuse tells outer why this mode does not work here, and ends.
func (s stage) refuse(kind, text string) {
	report(s.workerFD, kind, text)
	os.Exit(125)
}

func report(fd int, kind, text string) {
	_, _ = unix.Write(fd, []byte(kind+" "+strings.ReplaceAll(text, "\n", "; ")+"\n"))
}

// readByte blocks for one byte; ok is false at the end of file.
func readByte(fd int) (b byte, ok bool) {
	var buf [1]byte
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n == 0:
			return 0, false
		default:
			return buf[0], true
		}
	}
}
