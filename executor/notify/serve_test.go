package notify_test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
)

// askingVar makes this test binary a task ("parent"), or one of two that it starts ("child").
const askingVar = "NOTIFY_TEST_ASKING"

func TestMain(m *testing.M) {
	switch os.Getenv(askingVar) {
	case "parent":
		os.Exit(ask())
	case "child":
		v, _, _ := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		os.Exit(int(v))
	}
	os.Exit(m.Run())
}

// ask installs a filter for getppid, hands the listener over by descriptor 3, and has two processes make the call.
func ask() int {
	runtime.LockOSThread() // the filter is this thread's, and its children's
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_GETPPID},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF}, {Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 2
	}
	fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, notify.FilterFlags, uintptr(unsafe.Pointer(&prog)))
	if e != 0 || unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(fd)), nil, 0) != nil || unix.Close(int(fd)) != nil {
		return 3
	}
	var children [2]*exec.Cmd
	for i := range children {
		children[i] = exec.Command("/proc/self/exe")
		children[i].Env = []string{askingVar + "=child"}
		if err := children[i].Start(); err != nil {
			return 4
		}
	}
	for _, c := range children {
		var exit *exec.ExitError
		if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 77 {
			return 5
		}
	}
	return 0
}

// An answer that waits for another call, although it did not say that it takes long, is waited for, and the other call is answered meanwhile.
func TestStuckAnswer(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "task"), os.NewFile(uintptr(fds[1]), "test")
	defer ours.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr, cmd.ExtraFiles = []string{askingVar + "=parent"}, os.Stderr, []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(fds[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	rights, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	second := make(chan struct{})
	server, err := notify.NewServer(notify.Listener(rights[0]), func(*notify.Worker, *notify.Notification) notify.Answer {
		if calls.Add(1) == 1 {
			<-second
		} else {
			close(second)
		}
		return notify.Value(77)
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- server.Serve(2) }()
	if err := cmd.Wait(); err != nil || calls.Load() != 2 {
		t.Errorf("%d calls, %v", calls.Load(), err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// What keeps calls from being received ends the server, and is said.
func TestBrokenListener(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	server, err := notify.NewServer(notify.Listener(null.Fd()), func(*notify.Worker, *notify.Notification) notify.Answer { return notify.Pass() })
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(2); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("%v, want ENOTTY", err)
	}
	if err := notify.Listener(null.Fd()).Reply(1, notify.Pass()); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("an answer: %v, want ENOTTY", err)
	}
}
