package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Terminal relays between the caller's terminal and the one inside the sandbox.
//
//	caller's terminal, raw ◄──► master ◄─ devpts of the container ─► slave: the process's three streams
//
// The master is made inside the container, so that its devpts is the one it belongs to, and comes out over a socket.
type Terminal struct {
	// Socket is where the master is sent to (SCM_RIGHTS).
	Socket *os.File
	// Width and Height are the size it is to have.
	Width, Height uint16

	outer   *os.File
	sock    *os.File
	restore *term.State
	resize  chan os.Signal
	done    chan error
	master  *os.File
}

func newTerminal(f *os.File) (*Terminal, error) {
	t := &Terminal{outer: f, resize: make(chan os.Signal, 1), done: make(chan error, 1)}
	if w, h, err := term.GetSize(int(f.Fd())); err == nil {
		t.Width, t.Height = uint16(w), uint16(h)
	} else {
		return nil, fmt.Errorf("%s is not a terminal: %w", f.Name(), err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	t.sock, t.Socket = os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console")
	if t.restore, err = term.MakeRaw(int(f.Fd())); err != nil {
		t.sock.Close()
		t.Socket.Close()
		return nil, err
	}
	return t, nil
}

// started receives the master, if the process came that far, and begins to relay.
func (t *Terminal) started() {
	t.Socket.Close()
	master, err := receiveFile(t.sock)
	t.sock.Close()
	if err != nil {
		t.done <- nil // the process's own error says more
		return
	}
	t.master = master
	signal.Notify(t.resize, unix.SIGWINCH)
	go func() {
		for range t.resize {
			if ws, err := unix.IoctlGetWinsize(int(t.outer.Fd()), unix.TIOCGWINSZ); err == nil {
				_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, ws)
			}
		}
	}()
	// Ends at its first read after the process's end: nothing can interrupt a read of a terminal.
	go func() { _, _ = io.Copy(master, t.outer) }()
	go func() {
		_, err := io.Copy(t.outer, master)
		if errors.Is(err, unix.EIO) {
			err = nil // the last slave was closed
		}
		t.done <- err
	}()
}

// finish waits for the last output and gives the caller's terminal back as it was.
func (t *Terminal) finish() error {
	err := <-t.done
	signal.Stop(t.resize)
	close(t.resize)
	if t.master != nil {
		t.master.Close()
	}
	return errors.Join(err, term.Restore(int(t.outer.Fd()), t.restore))
}

// receiveFile takes one descriptor from a socket (SCM_RIGHTS, unix(7)).
func receiveFile(sock *os.File) (*os.File, error) {
	name := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(sock.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), "terminal"), nil
		}
	}
	return nil, errors.New("no terminal received")
}
