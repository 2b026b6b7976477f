package process

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Relay copies pipes to their writers, each until its end or an error of its writer, and closes it then. One at a time is read, in the order in which
// they got something to be read: of what a process writes to its two streams, what came first is delivered first, as far as two pipes can tell.
func Relay(pipes []*os.File, writers []io.Writer) (err error) {
	defer func() {
		for _, p := range pipes {
			p.Close() // a second time does nothing
		}
	}()
	ready, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	defer unix.Close(ready)
	for i, p := range pipes {
		if err := ask(ready, unix.EPOLL_CTL_ADD, p, i); err != nil {
			return err
		}
	}
	buf := make([]byte, 32<<10)
	for open := len(pipes); open > 0; {
		// The kernel keeps those that are ready in a queue. One that was read is asked about again at once, before its writer takes its time: so
		// that it has its place in the queue from when it gets something new.
		var events [1]unix.EpollEvent
		n, werr := unix.EpollWait(ready, events[:], -1)
		if errors.Is(werr, unix.EINTR) || werr == nil && n == 0 {
			continue
		}
		if werr != nil {
			return errors.Join(err, os.NewSyscallError("epoll_wait", werr))
		}
		i := events[0].Fd
		n, rerr := unix.Read(int(pipes[i].Fd()), buf)
		again := errors.Is(rerr, unix.EINTR) || errors.Is(rerr, unix.EAGAIN)
		if n > 0 || again {
			rerr = ask(ready, unix.EPOLL_CTL_MOD, pipes[i], int(i))
		}
		if again && rerr == nil {
			continue
		}
		if n > 0 && rerr == nil {
			_, rerr = writers[i].Write(buf[:n])
		}
		if n <= 0 || rerr != nil {
			err = errors.Join(err, rerr, pipes[i].Close())
			open--
		}
	}
	return err
}

// ask has the kernel say once when a pipe, the i-th, can be read.
func ask(ready, op int, pipe *os.File, i int) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(i)} // its number, and not its descriptor
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(ready, op, int(pipe.Fd()), &event))
}
