package ptrace

import (
	"encoding/gob"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
	"github.com/cairn-build/cairn/executor/process"
	"github.com/cairn-build/cairn/pkg/userns"
)

// This program is two others besides, of which users see nothing.
const (
	marker         = "_CAIRN_PTRACE"
	supervisorName = "ptrace-supervisor"
	stubName       = "ptrace-stub"
)

var (
	_ = userns.Entry(supervisorName, marker, superviseMain)
	_ = userns.Entry(stubName, marker, stubMain)
)

// start is what the stub is to become.
type start struct {
	Path     string
	Args     []string
	Env      []string
	Dir      string
	Rlimits  []process.Rlimit
	Filter   []unix.SockFilter
	Terminal bool
}

// started is what the stub says when it could not: nothing more comes from it if it could.
type started struct {
	Doing string
	Errno unix.Errno
}

// stubSocket is the descriptor by which the stub and the supervisor talk.
const stubSocket = 3

// stubMain is the first program of the tree of tasks. The supervisor has its only thread that counts, the first of the process, under ptrace.
// It installs the filter, gives the listener away, and executes what it was told to: from then on its calls are those of a task.
func stubMain() {
	runtime.LockOSThread() // the first thread: package variables are initialised on it
	sock := os.NewFile(stubSocket, "supervisor")
	var s start
	if err := gob.NewDecoder(sock).Decode(&s); err != nil {
		syscall.Exit(255)
	}
	doing, errno := s.become()
	_ = gob.NewEncoder(sock).Encode(started{doing, errno})
	syscall.Exit(255)
}

func (s *start) become() (doing string, errno unix.Errno) {
	unix.Umask(0o022)
	if s.Terminal {
		if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
			return "taking the terminal", notify.Errno(err)
		}
	}
	for _, l := range s.Rlimits {
		// By this call, and no other, Go's runtime learns that it need not put back what it found.
		if err := syscall.Setrlimit(l.Type, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return "setting limits", notify.Errno(err)
		}
	}
	if err := unix.CloseRange(stubSocket, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return "closing descriptors", notify.Errno(err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "giving up privileges", notify.Errno(err)
	}
	prog := unix.SockFprog{Len: uint16(len(s.Filter)), Filter: &s.Filter[0]}
	fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, notify.FilterFlags, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return "installing the seccomp filter", e
	}
	if err := unix.Sendmsg(stubSocket, []byte{0}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return "handing over the seccomp listener", notify.Errno(err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0); e != 0 {
		return "handing over the seccomp listener", e
	}
	// From here on paths are those of the root filesystem.
	dir, err := unix.BytePtrFromString(s.Dir)
	if err != nil {
		return "entering the working directory", unix.EINVAL
	}
	if _, _, e := unix.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(dir)), 0, 0); e != 0 {
		return "entering the working directory", e
	}
	return "exec", notify.Errno(syscall.Exec(s.Path, s.Args, s.Env))
}
