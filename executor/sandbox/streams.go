package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/process"
)

// Streams connects a process with the caller's streams.
type Streams struct {
	// Stdin, Stdout and Stderr are for the process. Stdin is nil for an empty one; all are nil where there is a Terminal.
	Stdin, Stdout, Stderr *os.File
	// Terminal is nil unless the process gets one.
	Terminal *Terminal

	childEnds []io.Closer
	ourEnds   []io.Closer
	copying   sync.WaitGroup
	mu        sync.Mutex
	err       error
}

// NewStreams prepares the process's standard streams. They are always pipes, or a terminal of its own, even where the caller has a file: they
// are given to the user that the process runs as (so that /dev/stdout can be opened), and that must not happen to the caller's terminal or
// log file.
func NewStreams(p executor.Process) (*Streams, error) {
	s := &Streams{}
	if p.Terminal != nil {
		var err error
		if s.Terminal, err = newTerminal(p.Terminal); err != nil {
			return nil, fmt.Errorf("preparing a terminal: %w", err)
		}
		return s, nil
	}
	if p.Stdin != nil {
		pr, pw, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.Stdin = pr
		s.childEnds = append(s.childEnds, pr)
		s.ourEnds = append(s.ourEnds, pw)
		// Not waited for: what is read here may never end. Closing the pipe ends it at its next write.
		go func() {
			_, _ = io.Copy(pw, p.Stdin)
			pw.Close()
		}()
	}
	err := s.outputs(p.Stdout, p.Stderr)
	if err != nil {
		s.Started()
		_ = s.Finish()
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

// outputs makes the pipes for standard output and error; a nil writer drops what it gets. One writer gets both over one pipe.
func (s *Streams) outputs(writers ...io.Writer) error {
	if sameWriter(writers[0], writers[1]) {
		writers = writers[:1]
	}
	var pipes []*os.File
	for i, w := range writers {
		pr, pw, err := os.Pipe()
		if err != nil {
			for _, p := range pipes {
				p.Close()
			}
			return err
		}
		if w == nil {
			writers[i] = io.Discard
		}
		pipes = append(pipes, pr)
		s.childEnds = append(s.childEnds, pw)
		if s.Stderr = pw; i == 0 {
			s.Stdout = pw
		}
	}
	// A pipe that is closed on an error of its writer gives the process SIGPIPE, as in a shell.
	s.copying.Go(func() { s.fail(process.Relay(pipes, writers)) })
	return nil
}

func (s *Streams) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

// Started closes the ends that belong to the process: it has them, or will never be.
func (s *Streams) Started() {
	for _, c := range s.childEnds {
		c.Close()
	}
	if s.Terminal != nil {
		s.Terminal.started()
	}
}

// Finish waits until all output is delivered. It is called when no process is left that could write more: the end of
// pid 1 is the end of its namespace.
func (s *Streams) Finish() error {
	s.copying.Wait()
	for _, c := range s.ourEnds {
		c.Close()
	}
	if s.Terminal != nil {
		s.fail(s.Terminal.finish())
	}
	return s.err
}
