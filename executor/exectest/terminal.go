package exectest

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

// A terminal of its own, of the caller's size, through which input, interrupts and output go.
func testTerminal(t *testing.T, e executor.Executor) {
	master, slave := openPTY(t)
	must(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}))
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	spec := Shell(Root(t), "tty; stty size; trap 'echo interrupted; exit 5' INT; test -c /dev/console && echo prompt; while :; do sleep 0.05; done")
	spec.Process.Terminal = slave
	spec.Process.User = "ann"
	done := make(chan error, 1)
	go func() {
		done <- e.Run(context.Background(), spec)
		_, _ = slave.WriteString("\nended\n")
	}()
	var got strings.Builder
	buf := make([]byte, 256)
	for !strings.Contains(got.String(), "ended") {
		n, err := master.Read(buf)
		must(t, err)
		got.Write(buf[:n])
		if strings.HasSuffix(got.String(), "prompt\r\n") {
			_, err = master.WriteString("\x03") // the container's terminal makes the signal of it: the caller's is raw
			must(t, err)
		}
	}
	if err := <-done; exitCode(err) != 5 {
		t.Errorf("exit code 5 wanted: %v", err)
	}
	if want := "/dev/pts/0\r\n33 77\r\nprompt\r\n^Cinterrupted"; !strings.HasPrefix(got.String(), want) {
		t.Errorf("the terminal shows %q, want %q", got.String(), want)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if must(t, err); *after != *before {
		t.Errorf("the caller's terminal is left as %+v, was %+v", after, before)
	}
	spec.Process.Terminal, err = os.Open("/dev/null")
	must(t, err)
	if err := e.Run(context.Background(), spec); exitCode(err) != -1 {
		t.Errorf("not a terminal: %v", err)
	}
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { master.Close() })
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { slave.Close() })
	return master, slave
}
