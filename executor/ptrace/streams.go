package ptrace

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/sandbox"
)

// streams are those of a process: pipes, or all of them a terminal made here.
type streams struct {
	*sandbox.Streams
	stdin, stdout, stderr *os.File
	// pty is the name of the process's end of the terminal on this machine, "" without one.
	pty   string
	close []*os.File
}

func newStreams(p executor.Process) (*streams, error) {
	s := &streams{}
	var err error
	if s.Streams, err = sandbox.NewStreams(p); err != nil {
		return nil, err
	}
	s.stdin, s.stdout, s.stderr = s.Stdin, s.Stdout, s.Stderr
	switch {
	case s.Terminal != nil:
		err = s.openTerminal()
	case s.stdin == nil:
		if s.stdin, err = os.Open(os.DevNull); err == nil {
			s.close = append(s.close, s.stdin)
		}
	}
	if err != nil {
		s.started()
		_ = s.Finish()
		return nil, err
	}
	return s, nil
}

// openTerminal makes a terminal, and sends the end that is relayed where a container would send it.
func (s *streams) openTerminal() error {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making a terminal: %w", err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlocking a terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("naming a terminal: %w", err)
	}
	s.pty = "/dev/pts/" + strconv.Itoa(n)
	slave, err := os.OpenFile(s.pty, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a terminal: %w", err)
	}
	s.close = append(s.close, slave)
	s.stdin, s.stdout, s.stderr = slave, slave, slave
	size := &unix.Winsize{Row: s.Terminal.Height, Col: s.Terminal.Width}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, size); err != nil {
		return fmt.Errorf("sizing a terminal: %w", err)
	}
	if err := unix.Sendmsg(int(s.Terminal.Socket.Fd()), []byte(s.pty), unix.UnixRights(int(master.Fd())), nil, 0); err != nil {
		return fmt.Errorf("handing a terminal over: %w", err)
	}
	return nil
}

// started closes the ends that belong to the process.
func (s *streams) started() {
	for _, f := range s.close {
		f.Close()
	}
	s.Started()
}

func (s *streams) abort() error {
	s.started()
	return s.Finish()
}
