package userns

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/cairn-build/cairn/pkg/hint"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that outer passes on. The ones that stop and continue are left to the terminal's driver
// and to whoever sends them.
func forwarded() []os.Signal {
	return []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH}
}

// An obstacleError is a rung of the ladder that could not be taken; the next one may be.
type obstacleError struct {
	err error
	// noProc means that only the new /proc was refused: the same rung without a pid namespace may work.
	noProc bool
}

func (e *obstacleError) Error() string { return e.err.Error() }
func (e *obstacleError) Unwrap() error { return e.err }

// Enter is EnterAs for namespaces, whatever ids they have.
func Enter() (done bool, code int, err error) { return EnterAs(Namespaces) }

// EnterAs brings the program into the place. In the worker it returns done == false at once, and the caller goes on. In
// the process that the user started, it runs the program again inside, waits for its end, and returns done == true
// with the exit code to exit with: the worker's, or 128+n when signal n ended it. Standard input, output and error
// and every other descriptor the user passed belong to the worker; outer never reads or writes them.
//
// Modes are tried from the best to the weakest, by doing: what a machine allows cannot be told from its settings. An
// error names what stands in the way of the last one, and a hint; with Auto there is always one that works.
func EnterAs(want Want) (done bool, code int, err error) {
	if Inside() {
		return false, 0, nil
	}
	modes, err := ladder(want)
	if err != nil {
		return true, 0, err
	}
	var obstacle string
	for i := 0; i < len(modes); i++ {
		m := modes[i]
		if m.Obstacle == "" {
			m.Obstacle = obstacle
		}
		code, err = run(m)
		var oe *obstacleError
		if err == nil || !errors.As(err, &oe) {
			return true, code, err
		}
		obstacle = explain(oe).Error()
		if oe.noProc {
			m.PID = false
			m.Obstacle = obstacle
			modes[i] = m
			i--
		}
	}
	return true, 0, fmt.Errorf("entering namespaces: %w", explain(err))
}

// attempt is one rung: a mode and the maps that make it.
type attempt struct {
	Mode
	maps idMaps
}

// ladder lists the modes worth trying for this user, best first.
func ladder(want Want) ([]attempt, error) {
	single := attempt{Mode: Mode{Map: SingleID, PID: true}, maps: singleMaps(os.Geteuid(), os.Getegid())}
	bare := attempt{Mode: Mode{Bare: true}}
	switch want {
	case Single:
		return []attempt{single}, nil
	case Bare:
		return []attempt{bare}, nil
	case Auto, Full, Namespaces:
	default:
		return nil, fmt.Errorf("entering namespaces: unknown mode %q", want)
	}
	full, err := fullModes()
	weaker := []attempt{single, bare}
	switch want {
	case Full:
		return full, err
	case Namespaces:
		if os.Geteuid() == 0 {
			return full, err
		}
		weaker = weaker[:1]
	}
	if err != nil {
		weaker[0].Obstacle = err.Error()
		full = nil
	}
	return append(full, weaker...), nil
}

// fullModes are those in which files can have owners.
func fullModes() ([]attempt, error) {
	if os.Geteuid() == 0 {
		identity, err := identityMaps()
		if err != nil {
			return nil, err
		}
		return []attempt{
			{Mode: Mode{Map: NoMap, PID: true}},
			{Mode: Mode{Map: Identity, PID: true}, maps: identity},
		}, nil
	}
	sub, err := subIDMaps(os.Getuid(), os.Getgid())
	if err != nil {
		return nil, err
	}
	return []attempt{{Mode: Mode{Map: SubIDs, PID: true}, maps: sub}}, nil
}

// run makes one attempt and, when it gets inside, stays until the worker's end.
func run(a attempt) (int, error) {
	// The parent death signal of init is tied to the thread that cloned it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	toInit, initEnd, err := socketpair()
	if err != nil {
		return 0, err
	}
	defer toInit.Close()
	defer initEnd.Close()
	toWorker, workerEnd, err := socketpair()
	if err != nil {
		return 0, err
	}
	defer toWorker.Close()
	defer workerEnd.Close()

	pid, err := cloneInit(a, initEnd, workerEnd)
	if err != nil {
		return 0, err
	}
	initEnd.Close()
	workerEnd.Close()
	exited := make(chan int, 1)
	go func() { exited <- wait(pid) }()

	if err := a.maps.write(pid); err != nil {
		toInit.Close()
		<-exited
		return 0, &obstacleError{err: err}
	}
	signals := make(chan os.Signal, 16)
	for _, s := range forwarded() {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)
	if _, err := toInit.Write([]byte{goAhead}); err != nil {
		<-exited
		return 0, fmt.Errorf("starting the build process: %w", err)
	}
	if err := awaitWorker(toWorker); err != nil {
		toInit.Close()
		<-exited
		return 0, err
	}
	for {
		select {
		case s := <-signals:
			_, _ = toInit.Write([]byte{byte(s.(syscall.Signal))})
		case code := <-exited:
			return code, nil
		}
	}
}

// awaitWorker reads the worker's one line: whether it got what the mode promises. A worker that ended without a word
// was killed or could not be executed; its exit code says the rest.
func awaitWorker(f *os.File) error {
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return nil
	}
	kind, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	switch kind {
	case reportReady:
		return nil
	case reportNoProc:
		return &obstacleError{err: errors.New(text), noProc: true}
	default:
		return &obstacleError{err: errors.New(text)}
	}
}

// kept are the capabilities that init takes through its exec. Without no_new_privs none are needed: the worker's exec, as root, gives all
// of them again. With it, an exec gives nothing that was not there before. A map that newuidmap has to write cannot be had with it anyway.
func (a attempt) kept() []uintptr {
	if a.Map == NoMap || a.maps.helper {
		return nil
	}
	last := uintptr(unix.CAP_LAST_CAP)
	if n, ok := readNumber("/proc/sys/kernel/cap_last_cap"); ok {
		last = min(last, uintptr(n))
	}
	var caps []uintptr
	for c := range last + 1 {
		caps = append(caps, c)
	}
	return caps
}

// cloneInit starts the program again as init in the mode's namespaces.
func cloneInit(a attempt, initEnd, workerEnd *os.File) (int, error) {
	m := a.Mode
	var flags uintptr
	if !m.Bare {
		// The uts namespace is there to see whether a host name can be set: the system call may be filtered.
		flags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS
	}
	if m.Map != NoMap {
		flags |= unix.CLONE_NEWUSER
	}
	if m.PID {
		flags |= unix.CLONE_NEWPID
	}
	// The two ends keep their numbers: every number below them may be a descriptor that the user passes ("-f /dev/fd/3").
	for _, f := range []*os.File{initEnd, workerEnd} {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return 0, os.NewSyscallError("fcntl", err)
		}
	}
	s := stage{kind: stageInit, initFD: int(initEnd.Fd()), workerFD: int(workerEnd.Fd()), mode: m, parent: os.Getpid()}
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env:   append(os.Environ(), s.env()),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Cloneflags: flags, AmbientCaps: a.kept()},
	})
	if err != nil {
		return 0, &obstacleError{err: fmt.Errorf("creating a %s: %w", m, err)}
	}
	return pid, nil
}

// wait waits for one child and returns its exit code, 128+n after signal n.
func wait(pid int) int {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 128
		case ws.Exited() || ws.Signaled():
			return exitCode(ws)
		}
	}
}

func exitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// socketpair returns two connected sockets, both close-on-exec.
func socketpair() (*os.File, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "namespace control"), os.NewFile(uintptr(fds[1]), "namespace control"), nil
}

// readNumber reads a file that holds one number, such as those under /proc/sys; ok is false where it does not exist.
func readNumber(path string) (n int, ok bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}

// explain adds the likeliest cause to the refusal of a rung, as a hint of what would help.
func explain(err error) error {
	if _, has := hint.Of(err); has != "" {
		return err
	}
	return hint.With(err, cause(err))
}

func cause(err error) string {
	status := readStatus()
	if n, ok := readNumber("/proc/sys/kernel/unprivileged_userns_clone"); ok && n == 0 {
		return "unprivileged user namespaces are switched off: sysctl -w kernel.unprivileged_userns_clone=1"
	}
	if n, ok := readNumber("/proc/sys/user/max_user_namespaces"); ok && n == 0 {
		return "user namespaces are switched off: sysctl -w user.max_user_namespaces=15000"
	}
	if n, ok := readNumber("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"); ok && n == 1 && os.Geteuid() != 0 {
		return "AppArmor restricts unprivileged user namespaces: install a profile that allows userns for this program, " +
			"or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	}
	text := err.Error()
	switch {
	case errors.Is(err, unix.EACCES) || strings.Contains(text, unix.EACCES.Error()):
		return "a security module denies mounts, as AppArmor's profiles for containers do: run the container with the AppArmor profile Unconfined"
	case strings.Contains(text, "writing the id map") && os.Geteuid() == 0:
		return "the container lacks a capability: give it SETFCAP, SETUID and SETGID"
	case strings.Contains(text, "writing the id map") && status["NoNewPrivs"] == "1":
		return "no_new_privs keeps newuidmap from working: allow privilege escalation (allowPrivilegeEscalation: true)"
	case strings.Contains(text, "writing the id map"):
		return "newuidmap needs file capabilities (setcap cap_setuid=ep) where CAP_SYS_ADMIN is not in the container's bounding set, " +
			"and SETUID and SETGID must be in it"
	case strings.Contains(text, "mounting a new /proc"):
		return "the container's own /proc is masked: run it with an unmasked one (procMount: Unmasked, or --security-opt systempaths=unconfined)"
	case status["Seccomp"] == "2":
		return "the container's seccomp profile does not allow clone with CLONE_NEWUSER: run it with the profile Unconfined, or with one that allows it"
	}
	return "the machine, or the container engine around this process, does not allow user namespaces"
}

// readStatus reads proc_pid_status(5) of this process.
func readStatus() map[string]string {
	b, _ := os.ReadFile("/proc/self/status")
	fields := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			fields[k] = strings.TrimSpace(v)
		}
	}
	return fields
}
