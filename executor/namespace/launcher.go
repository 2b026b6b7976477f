package namespace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/userns"
)

// The launcher is this program again, started once and kept: a small process without threads at work, which can be copied for each command in
// a fraction of a millisecond. The program that builds has too much memory for that, and sharing it, as vfork does, would make changes
// of the copy's credentials changes of its own.
//
//	this process                    launcher                      the copy
//	────────────────────────────    ──────────────────────────    ──────────────────────────────
//	program, pipe, streams ───────► clone into namespaces ──────► system calls of the program,
//	number of the process ◄───────  ...                           execve
//	end of file, or a report ◄──────────────────────────────────  (its parent is this process)
//
// The launcher's executable is a mount of its own, read-only: so whatever the command reaches as /proc/1/exe before, or as an interpreter,
// cannot be written to by anybody (CVE-2019-5736).

const (
	launcherName   = "namespace-launcher"
	launcherMarker = "_CAIRN_NAMESPACE_LAUNCHER"
	launcherFD     = 3
	// maxFDs is how many descriptors go with a program: the registers that are set before it begins.
	maxFDs = 4
)

var _ = userns.Entry(launcherName, launcherMarker, serve)

// serve is the launcher's life. It ends with the end of its socket.
func serve() {
	runtime.LockOSThread()
	unix.CloseOnExec(launcherFD)
	debug.FreeOSMemory() // what a copy has not, the kernel need not copy
	var buf []uint64
	for {
		pid, err := serveOne(&buf)
		if errors.Is(err, io.EOF) {
			return
		}
		answer := []int32{int32(pid), 0}
		if err != nil {
			var errno syscall.Errno
			if !errors.As(err, &errno) {
				errno = unix.EPROTO
			}
			answer[1] = int32(errno)
		}
		if _, err := unix.Write(launcherFD, raw(answer)); err != nil {
			return
		}
	}
}

// serveOne receives one program and starts it. buf is kept between calls: it is where the program lies.
func serveOne(buf *[]uint64) (int, error) {
	head := make([]header, 1)
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, _, _, err := unix.Recvmsg(launcherFD, raw(head), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_WAITALL)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	if err != nil {
		return 0, err
	}
	fds, err := rights(oob[:oobn])
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if err != nil || n != len(raw(head)) || len(fds) != maxFDs {
		return 0, errors.Join(err, unix.EPROTO)
	}
	size := head[0].size()
	if need := (size + 7) / 8; len(*buf) < need {
		*buf = make([]uint64, need)
	}
	body := raw(*buf)[:size]
	for got := 0; got < size; {
		n, err := unix.Read(launcherFD, body[got:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return 0, errors.Join(err, io.EOF)
		}
		got += n
	}
	var regs [regCount]uint64
	for i, fd := range fds {
		regs[i] = uint64(fd)
	}
	ops := head[0].link(body)
	args := cloneArgs{flags: head[0].cloneFlags | unix.CLONE_PARENT | unix.CLONE_CLEAR_SIGHAND}
	return forkBlocked(&args, ops, &regs)
}

// forkBlocked forks with all signals blocked: a handler of Go's must not run in the copy.
func forkBlocked(args *cloneArgs, ops []op, regs *[regCount]uint64) (int, error) {
	all, old := ^uint64(0), uint64(0)
	if _, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)),
		uintptr(unsafe.Pointer(&old)), 8, 0, 0); errno != 0 {
		return 0, errno
	}
	pid, errno := fork(args, ops, regs)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return pid, nil
}

// rights returns the descriptors that came with a message.
func rights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range msgs {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// launcher is this process's side of it.
type launcher struct {
	proc *os.Process
	// nofile is the limit of open files that a child of this process has; Go's runtime raises its own. nil if it is not known.
	nofile *unix.Rlimit

	mu   sync.Mutex
	sock int
}

// startLauncher starts the launcher.
func startLauncher() (_ *launcher, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting the launcher of processes: %w", err)
		}
	}()
	exe, err := protectedSelf()
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(fds[1])
	l := &launcher{sock: fds[0]}
	if err := l.exec(exe, []uintptr{null.Fd(), null.Fd(), 2, uintptr(fds[1])}); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return l, nil
}

// exec starts the executable. It is stopped at its first instruction (ptrace(2)) and looked at: that is the one moment when its
// limits are what a child of this process has, since Go restores them for the execution, and raises them again in the new process.
func (l *launcher) exec(exe *os.File, files []uintptr) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr := syscall.ProcAttr{Dir: "/", Env: []string{launcherMarker + "=1"}, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true}}
	argv := []string{"cairn", launcherName}
	path := fmt.Sprintf("/proc/self/fd/%d", exe.Fd())
	pid, err := syscall.ForkExec(path, argv, &attr)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		attr.Sys = nil // no ptrace here
		pid, err = syscall.ForkExec(path, argv, &attr)
	}
	if err != nil {
		return err
	}
	if l.proc, err = os.FindProcess(pid); err != nil || attr.Sys == nil {
		return err
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil || !ws.Stopped() {
		return fmt.Errorf("it ended at once: %v, status %#x", err, int(ws))
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err == nil {
		l.nofile = &limit
	}
	return os.NewSyscallError("ptrace", unix.PtraceDetach(pid))
}

// protectedSelf returns this program's executable as something that can be executed and never written: in a read-only mount of its own,
// or where that is not possible as a sealed copy.
func protectedSelf() (*os.File, error) {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	if fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err == nil {
		f := os.NewFile(uintptr(fd), path)
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		if sameFile(f) && unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr) == nil {
			return f, nil
		}
		f.Close()
	}
	return sealedSelf()
}

// sameFile reports whether f is what this process executes.
func sameFile(f *os.File) bool {
	a, err := f.Stat()
	b, berr := os.Stat("/proc/self/exe")
	return err == nil && berr == nil && os.SameFile(a, b)
}

func sealedSelf() (*os.File, error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer self.Close()
	fd, err := unix.MemfdCreate(filepath.Base(os.Args[0]), unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "executable")
	_, err = io.Copy(f, self)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("copying the executable: %w", err)
	}
	return f, nil
}

// start starts a program in new namespaces. The process is a child of this one.
func (l *launcher) start(p *program, cloneFlags uint64, fds [maxFDs]int) (int, error) {
	head, body := p.encode(cloneFlags)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := unix.Sendmsg(l.sock, head, unix.UnixRights(fds[:]...), nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, fmt.Errorf("speaking to the launcher: %w", err)
	}
	for len(body) > 0 {
		n, err := unix.SendmsgN(l.sock, body, nil, nil, unix.MSG_NOSIGNAL)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("speaking to the launcher: %w", err)
		}
		body = body[max(n, 0):]
	}
	answer := make([]int32, 2)
	for {
		n, _, err := unix.Recvfrom(l.sock, raw(answer), unix.MSG_WAITALL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != len(raw(answer)) {
			return 0, fmt.Errorf("the launcher has ended: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		break
	}
	if answer[1] != 0 {
		return 0, fmt.Errorf("making namespaces: %w", syscall.Errno(answer[1]))
	}
	return int(answer[0]), nil
}

// close ends the launcher.
func (l *launcher) close() error {
	unix.Close(l.sock)
	_ = l.proc.Kill()
	_, err := l.proc.Wait()
	return err
}
