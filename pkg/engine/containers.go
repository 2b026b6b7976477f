package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/cairn-build/cairn/pkg/worker"
	"github.com/cairn-build/cairn/snapshot"
)

// CreateContainer makes a container, which is not started, and returns its ID: 64 hexadecimal digits. It lives until it is removed, or the engine
// is closed.
func (e *Engine) CreateContainer(ctx context.Context, spec ContainerSpec) (string, error) {
	var r ref
	err := e.work.Call(ctx, worker.Call{Method: methodCreate, Params: spec, Result: &r})
	return r.ID, err
}

// StartContainer starts a container. A command that cannot be executed is an error that is an *executor.ExitError of 126 or 127.
func (e *Engine) StartContainer(ctx context.Context, id string) error {
	return e.work.Call(ctx, worker.Call{Method: methodStart, Params: ref{id}})
}

// WaitContainer waits until a container does not run any more; one that was never started is not waited for. Its exit code is no error.
func (e *Engine) WaitContainer(ctx context.Context, id string) (ContainerState, error) {
	var st ContainerState
	err := e.work.Call(ctx, worker.Call{Method: methodWait, Params: ref{id}, Result: &st})
	return st, err
}

// InspectContainer returns a container's state.
func (e *Engine) InspectContainer(ctx context.Context, id string) (ContainerState, error) {
	var st ContainerState
	err := e.work.Call(ctx, worker.Call{Method: methodInspect, Params: ref{id}, Result: &st})
	return st, err
}

// StopContainer ends a container with a signal (0 is SIGTERM), and SIGKILL after grace, and waits for its end. Stopping one that does not
// run is no error.
func (e *Engine) StopContainer(ctx context.Context, id string, signal int, grace time.Duration) error {
	return e.work.Call(ctx, worker.Call{Method: methodStop, Params: stopParams{ref{id}, signal, grace}})
}

// RemoveContainer removes a container with all it has written. One that runs is killed if force is set, and is an error otherwise.
func (e *Engine) RemoveContainer(ctx context.Context, id string, force bool) error {
	return e.work.Call(ctx, worker.Call{Method: methodRemove, Params: removeParams{ref{id}, force}})
}

// CommitContainer makes a layer of what a container has changed. It must not run. A container that never ran has changed nothing: the
// result is then what it stands on.
func (e *Engine) CommitContainer(ctx context.Context, id string) (snapshot.ROLayer, error) {
	var h roHandle
	if err := e.work.Call(ctx, worker.Call{Method: methodSnap, Params: ref{id}, Result: &h}); err != nil {
		return nil, err
	}
	return e.roLayer(h), nil
}

// MakeDir makes a directory, and those above it, in a container's root filesystem, owned by root with mode 0755.
func (e *Engine) MakeDir(ctx context.Context, id, dir string) error {
	return e.work.Call(ctx, worker.Call{Method: methodMkdir, Params: mkdirParams{ref{id}, dir}})
}

// ContainerLogs returns what a container has written so far, or with follow until it ends, in the frames of Docker's API: a byte for the
// stream (1 stdout, 2 stderr), three zeros, the length as four bytes big-endian, the data.
func (e *Engine) ContainerLogs(ctx context.Context, id string, follow bool) (io.ReadCloser, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("reading logs: %w", err)
	}
	// The state is asked first, so that an unknown container is an error here and not an empty log.
	if _, err := e.InspectContainer(ctx, id); err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &logStream{File: r, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = e.work.Call(ctx, worker.Call{Method: methodLogs, Params: logsParams{ref{id}, follow}, Files: []*os.File{w}})
		w.Close()
	}()
	return l, nil
}

// logStream is the reading end of a log. An error of the worker comes in place of the end of file.
type logStream struct {
	*os.File
	cancel func()
	done   chan struct{}
	err    error
}

func (l *logStream) Read(p []byte) (int, error) {
	n, err := l.File.Read(p)
	if errors.Is(err, io.EOF) {
		<-l.done
		if l.err != nil {
			return n, l.err
		}
	}
	return n, err
}

func (l *logStream) Close() error {
	l.cancel()
	return l.File.Close()
}

// Streams are what a container's streams are connected with; each may be nil.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// AttachContainer connects a container with s, calls attached once that is so, and returns when the container has ended and all its output is
// written. To miss nothing, attach before the start.
func (e *Engine) AttachContainer(ctx context.Context, id string, s Streams, attached func()) error {
	p := pipes{}
	defer p.close()
	if s.Stdout != nil && same(s.Stdout, s.Stderr) {
		// Two copies run at once, and a writer need not stand that.
		one := &lockedWriter{w: s.Stdout}
		s.Stdout, s.Stderr = one, one
	}
	params := attachParams{ref: ref{id}, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, Stdin: s.Stdin != nil}
	for _, w := range []io.Writer{s.Stdout, s.Stderr} {
		if w == nil {
			continue
		}
		if err := p.output(w); err != nil {
			return err
		}
	}
	if s.Stdin != nil {
		if err := p.input(s.Stdin); err != nil {
			return err
		}
	}
	err := e.work.Call(ctx, worker.Call{Method: methodAttach, Params: params, Files: p.theirs, Event: func(json.RawMessage) {
		if attached != nil {
			attached()
		}
	}})
	return errors.Join(err, p.finish())
}

// same reports whether two writers are one. Those of a type that cannot be compared are not.
func same(a, b io.Writer) (yes bool) {
	defer func() { _ = recover() }()
	return a == b
}

// lockedWriter has one write at a time.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// pipes are those of one attachment.
type pipes struct {
	theirs  []*os.File
	ours    []*os.File
	copying sync.WaitGroup
	mu      sync.Mutex
	err     error
}

func (p *pipes) output(w io.Writer) error {
	r, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	p.theirs, p.ours = append(p.theirs, theirs), append(p.ours, r)
	p.copying.Go(func() {
		if _, err := io.Copy(w, r); err != nil {
			p.mu.Lock()
			p.err = errors.Join(p.err, err)
			p.mu.Unlock()
			r.Close()
		}
	})
	return nil
}

// input is not waited for: what is read may never end.
func (p *pipes) input(from io.Reader) error {
	theirs, w, err := os.Pipe()
	if err != nil {
		return err
	}
	p.theirs = append(p.theirs, theirs)
	go func() {
		_, _ = io.Copy(w, from)
		w.Close()
	}()
	return nil
}

// finish waits until all output has been written.
func (p *pipes) finish() error {
	for _, f := range p.theirs {
		f.Close()
	}
	p.theirs = nil
	p.copying.Wait()
	return p.err
}

func (p *pipes) close() {
	for _, f := range append(p.theirs, p.ours...) {
		f.Close()
	}
}
