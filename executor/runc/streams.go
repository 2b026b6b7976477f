package runc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
)

// streams connects a process with the caller's streams.
type streams struct {
	childEnds []io.Closer
	ourEnds   []io.Closer
	copying   sync.WaitGroup
	mu        sync.Mutex
	err       error
	terminal  *terminal
}

// streams prepares the process's standard streams. They are always pipes, or a terminal of its own, even where the
// caller has a file: libcontainer gives the streams to the user that the process runs as (so that /dev/stdout can be
// opened), and that must not happen to the caller's terminal or log file.
func (r *run) streams(proc *libcontainer.Process) (*streams, error) {
	s := &streams{}
	p := r.spec.Process
	if p.Terminal != nil {
		return s, s.useTerminal(proc, p.Terminal)
	}
	if p.Stdin != nil {
		pr, pw, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		proc.Stdin = pr
		s.childEnds = append(s.childEnds, pr)
		s.ourEnds = append(s.ourEnds, pw)
		// Not waited for: what is read here may never end. Closing the pipe ends it at its next write.
		go func() {
			_, _ = io.Copy(pw, p.Stdin)
			pw.Close()
		}()
	}
	var err error
	if proc.Stdout, err = s.output(p.Stdout); err == nil {
		if proc.Stderr = proc.Stdout; !sameWriter(p.Stdout, p.Stderr) {
			proc.Stderr, err = s.output(p.Stderr)
		}
	}
	if err != nil {
		s.started()
		s.finish()
		return nil, err
	}
	return s, nil
}

// sameWriter reports whether both streams go to one writer, which then gets both over one pipe, in their order.
func sameWriter(a, b io.Writer) (same bool) {
	// Writers of a type that cannot be compared are not the same.
	defer func() { _ = recover() }()
	return a == b
}

// output makes a pipe whose content goes to w; a nil w drops it.
func (s *streams) output(w io.Writer) (*os.File, error) {
	if w == nil {
		w = io.Discard
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.childEnds = append(s.childEnds, pw)
	s.copying.Add(1)
	go func() {
		defer s.copying.Done()
		// Closing the pipe on an error of w gives the process SIGPIPE, as in a shell.
		defer pr.Close()
		_, err := io.Copy(w, pr)
		s.fail(err)
	}()
	return pw, nil
}

func (s *streams) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

// started closes the ends that belong to the process: it has them, or will never be.
func (s *streams) started() {
	for _, c := range s.childEnds {
		c.Close()
	}
	if s.terminal != nil {
		s.terminal.started()
	}
}

// finish waits until all output is delivered. It is called when no process is left that could write more: the end of
// pid 1 is the end of its namespace.
func (s *streams) finish() error {
	s.copying.Wait()
	for _, c := range s.ourEnds {
		c.Close()
	}
	if s.terminal != nil {
		s.fail(s.terminal.finish())
	}
	return s.err
}

func (s *streams) useTerminal(proc *libcontainer.Process, f *os.File) error {
	t, err := newTerminal(f)
	if err != nil {
		return fmt.Errorf("preparing a terminal: %w", err)
	}
	s.terminal = t
	proc.ConsoleSocket = t.childEnd
	proc.ConsoleWidth, proc.ConsoleHeight = t.width, t.height
	return nil
}
