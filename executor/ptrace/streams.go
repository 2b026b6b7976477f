package ptrace

import (
	"errors"
	"io"
	"os"
	"sync"

	"github.com/cairn-build/cairn/executor"
)

// streams connects a process with the caller's streams, by pipes throughout.
type streams struct {
	stdin, stdout, stderr *os.File // the process's ends

	input   *os.File
	copying sync.WaitGroup
	mu      sync.Mutex
	err     error
}

func newStreams(p executor.Process) (s *streams, err error) {
	s = &streams{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.abort())
		}
	}()
	if p.Stdin == nil {
		s.stdin, err = os.Open(os.DevNull)
	} else if s.stdin, s.input, err = os.Pipe(); err == nil {
		// Not waited for: what is read here may never end. Closing the pipe ends it at its next write.
		go func() {
			_, _ = io.Copy(s.input, p.Stdin)
			s.input.Close()
		}()
	}
	if err != nil {
		return nil, err
	}
	if s.stdout, err = s.output(p.Stdout); err != nil {
		return nil, err
	}
	if sameWriter(p.Stdout, p.Stderr) {
		s.stderr = s.stdout
		return s, nil
	}
	s.stderr, err = s.output(p.Stderr)
	return s, err
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
	s.copying.Go(func() {
		// Closing the pipe on an error of w gives the process SIGPIPE, as in a shell.
		defer pr.Close()
		_, err := io.Copy(w, pr)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = errors.Join(s.err, err)
	})
	return pw, nil
}

// started closes the ends that belong to the process.
func (s *streams) started() {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// finish waits until all output is delivered.
func (s *streams) finish() error {
	s.copying.Wait()
	if s.input != nil {
		s.input.Close()
	}
	return s.err
}

func (s *streams) abort() error {
	s.started()
	return s.finish()
}
