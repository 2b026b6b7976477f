package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/worker"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
)

// container is one container of the worker.
type container struct {
	s    *server
	id   string
	spec ContainerSpec
	dir  string
	log  *frames

	mu    sync.Mutex
	state ContainerState
	// rw is the root filesystem, nil before something needs it; committed is the layer made of it.
	rw        snapshot.RWLayer
	base      snapshot.ROLayer
	committed snapshot.ROLayer
	stop      context.CancelCauseFunc
	stdin     *os.File
	watchers  []*attachment
	ended     chan struct{}
}

// attachment is one connection to a container's output.
type attachment struct {
	stdout, stderr *os.File
	done           chan struct{}
}

// handleContainer carries out the requests about containers.
func (s *server) handleContainer(ctx context.Context, r *worker.Request) (any, error) {
	switch r.Method {
	case methodCreate:
		return answered(r, s.create)
	case methodStart:
		return nil, s.with(r, &ref{}, func(c *container, _ any) error { return c.start() })
	case methodAttach:
		return nil, s.with(r, &attachParams{}, func(c *container, p any) error { return c.attach(ctx, r, p.(*attachParams)) })
	case methodWait:
		var st ContainerState
		err := s.with(r, &ref{}, func(c *container, _ any) (err error) {
			st, err = c.wait(ctx)
			return err
		})
		return st, err
	case methodStop:
		return nil, s.with(r, &stopParams{}, func(c *container, p any) error { return c.end(ctx, p.(*stopParams)) })
	case methodRemove:
		return nil, s.with(r, &removeParams{}, func(c *container, p any) error { return s.remove(c, p.(*removeParams)) })
	case methodInspect:
		var st ContainerState
		err := s.with(r, &ref{}, func(c *container, _ any) error { st = c.inspect(); return nil })
		return st, err
	case methodLogs:
		return nil, s.with(r, &logsParams{}, func(c *container, p any) error { return c.logs(ctx, r.Take(0), p.(*logsParams).Follow) })
	case methodSnap:
		var h roHandle
		err := s.with(r, &ref{}, func(c *container, _ any) (err error) {
			h, err = c.commit(ctx)
			return err
		})
		return h, err
	case methodMkdir:
		return nil, s.with(r, &mkdirParams{}, func(c *container, p any) error { return c.mkdir(ctx, p.(*mkdirParams).Dir) })
	}
	return nil, worker.WithKind(worker.Invalid, fmt.Errorf("unknown request %q", r.Method))
}

// named is what all parameters of containers have.
type named interface{ name() string }

func (r *ref) name() string { return r.ID }

// with reads the parameters of a request and finds the container they name.
func (s *server) with(r *worker.Request, params named, f func(*container, any) error) error {
	if err := r.Decode(params); err != nil {
		return err
	}
	s.mu.Lock()
	c, ok := s.containers[params.name()]
	s.mu.Unlock()
	if !ok {
		return worker.WithKind(worker.NotFound, fmt.Errorf("no such container: %s", params.name()))
	}
	return f(c, params)
}

func (s *server) create(spec ContainerSpec) (ref, error) {
	dir, err := s.store.TempDir("container-")
	if err != nil {
		return ref{}, err
	}
	c := &container{s: s, id: newID(), spec: spec, dir: dir, ended: make(chan struct{})}
	c.state = ContainerState{ID: c.id, Status: Created}
	if c.log, err = newFrames(filepath.Join(dir, "log"), !spec.NoLog); err != nil {
		return ref{}, errors.Join(err, s.store.RemoveTemp(dir))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[c.id] = c
	return ref{c.id}, nil
}

// mounted returns the root filesystem, mounting it when it is first needed. c.mu is held.
func (c *container) mounted(ctx context.Context) (snapshot.RWLayer, error) {
	if c.committed != nil {
		return nil, worker.WithKind(worker.Conflict, fmt.Errorf("container %s is committed", c.id))
	}
	if c.rw != nil {
		return c.rw, nil
	}
	ro, err := c.s.snapshotter.Open(ctx, c.spec.Chain)
	if err != nil {
		return nil, err
	}
	c.base = ro
	c.rw, err = ro.NewRWLayer()
	return c.rw, err
}

func (c *container) mkdir(ctx context.Context, dir string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	rw, err := c.mounted(ctx)
	if err != nil {
		return err
	}
	if err := pathrs.MkdirAll(rw.Root(), dir, 0o755); err != nil {
		return fmt.Errorf("making directory %s: %w", dir, err)
	}
	return nil
}

// start runs the container's process; it returns when the process is under way.
func (c *container) start() error {
	c.mu.Lock()
	if c.state.Status != Created {
		c.mu.Unlock()
		return worker.WithKind(worker.Conflict, fmt.Errorf("container %s was started before", c.id))
	}
	rw, err := c.mounted(context.Background())
	if err == nil && c.spec.Spec.Process.Dir != "" {
		if err = pathrs.MkdirAll(rw.Root(), c.spec.Spec.Process.Dir, 0o755); err != nil {
			err = fmt.Errorf("making working directory %s: %w", c.spec.Spec.Process.Dir, err)
		}
	}
	if err != nil {
		c.mu.Unlock()
		return err
	}
	ctx, stop := context.WithCancelCause(context.Background())
	c.stop = stop
	spec := c.spec.Spec
	spec.Root, spec.Owners = rw.Root(), snapshot.OwnersOf(rw)
	if c.stdin != nil {
		spec.Process.Stdin = c.stdin
	}
	spec.Process.Stdout, spec.Process.Stderr = &output{c: c, stream: 1}, &output{c: c, stream: 2}
	started := make(chan struct{})
	spec.Started = func() { close(started) }
	c.state.Status, c.state.StartedAt = Running, time.Now().UTC()
	c.mu.Unlock()

	go func() { c.finish(c.s.executor.Run(ctx, spec)) }()
	select {
	case <-started:
		return nil
	case <-c.ended:
	}
	select {
	case <-started:
		return nil
	default:
	}
	return c.failure()
}

// finish notes how the process ended, and lets go of everyone attached.
func (c *container) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Status, c.state.FinishedAt = Exited, time.Now().UTC()
	var exit *executor.ExitError
	switch {
	case errors.As(err, &exit):
		c.state.ExitCode, c.state.Error = exit.Code, exit.Reason
	case err != nil:
		c.state.ExitCode, c.state.Error = 128, err.Error()
	}
	for _, w := range c.watchers {
		w.close()
	}
	c.watchers = nil
	c.log.end()
	close(c.ended)
}

// failure is the error of a container that could not be started.
func (c *container) failure() error {
	st := c.inspect()
	if st.ExitCode == 126 || st.ExitCode == 127 {
		return &executor.ExitError{Code: st.ExitCode, Reason: st.Error}
	}
	return errors.New(st.Error)
}

func (c *container) inspect() ContainerState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *container) wait(ctx context.Context) (ContainerState, error) {
	if st := c.inspect(); st.Status == Created {
		return st, nil
	}
	select {
	case <-c.ended:
		return c.inspect(), nil
	case <-ctx.Done():
		return ContainerState{}, fmt.Errorf("waiting for container %s: %w", c.id, context.Cause(ctx))
	}
}

// end stops the process and waits for that.
func (c *container) end(ctx context.Context, p *stopParams) error {
	if c.inspect().Status != Running {
		return nil
	}
	c.stop(&executor.Stop{Signal: p.Signal, Grace: p.Grace})
	_, err := c.wait(ctx)
	return err
}

func (s *server) remove(c *container, p *removeParams) error {
	if err := c.remove(p.Force); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, c.id)
	return nil
}

// remove gives back what the container holds.
func (c *container) remove(force bool) error {
	if c.inspect().Status == Running {
		if !force {
			return worker.WithKind(worker.Conflict, fmt.Errorf("container %s is running", c.id))
		}
		if err := c.end(context.Background(), &stopParams{}); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, w := range c.watchers {
		w.close()
	}
	c.watchers = nil
	if c.stdin != nil {
		c.stdin.Close()
	}
	if c.rw != nil {
		errs = append(errs, c.rw.Release())
	}
	if c.base != nil {
		errs = append(errs, c.base.Release())
	}
	return errors.Join(append(errs, c.log.close(), c.s.store.RemoveTemp(c.dir))...)
}

// commit makes a layer of what the container changed.
func (c *container) commit(ctx context.Context) (roHandle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Status == Running {
		return roHandle{}, worker.WithKind(worker.Conflict, fmt.Errorf("committing container %s: it is running", c.id))
	}
	if c.committed == nil {
		l, err := c.makeLayer(ctx)
		if err != nil {
			return roHandle{}, err
		}
		c.committed = l
	}
	return c.s.holdLayer(c.committed), nil
}

func (c *container) makeLayer(ctx context.Context) (snapshot.ROLayer, error) {
	if c.rw == nil {
		return c.s.snapshotter.Open(ctx, c.spec.Chain)
	}
	return c.rw.Commit()
}

// attach connects the caller's pipes, says so, and returns when the container has ended.
func (c *container) attach(ctx context.Context, r *worker.Request, p *attachParams) error {
	a := &attachment{done: make(chan struct{})}
	next := 0
	take := func(wanted bool) *os.File {
		if !wanted {
			return nil
		}
		next++
		return r.Take(next - 1)
	}
	a.stdout, a.stderr = take(p.Stdout), take(p.Stderr)
	stdin := take(p.Stdin)
	c.mu.Lock()
	if c.state.Status == Exited || stdin != nil && (c.state.Status != Created || c.stdin != nil) {
		c.mu.Unlock()
		a.close()
		if stdin != nil {
			stdin.Close()
			return worker.WithKind(worker.Conflict, fmt.Errorf("attaching to container %s: its standard input was connected at its start", c.id))
		}
		r.Emit(struct{}{})
		return nil
	}
	if stdin != nil {
		c.stdin = stdin
	}
	c.watchers = append(c.watchers, a)
	c.mu.Unlock()
	r.Emit(struct{}{})
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		c.detach(a)
		return fmt.Errorf("attached to container %s: %w", c.id, context.Cause(ctx))
	}
}

// detach drops a connection.
func (c *container) detach(a *attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, w := range c.watchers {
		if w == a {
			c.watchers = append(c.watchers[:i:i], c.watchers[i+1:]...)
			a.close()
			return
		}
	}
}

func (a *attachment) close() {
	for _, f := range []*os.File{a.stdout, a.stderr} {
		if f != nil {
			f.Close()
		}
	}
	close(a.done)
}

// output is what the process writes one stream to: the log, and everyone attached.
type output struct {
	c      *container
	stream byte
}

func (o *output) Write(p []byte) (int, error) {
	if err := o.c.log.write(o.stream, p); err != nil {
		return 0, err
	}
	o.c.mu.Lock()
	watchers := o.c.watchers
	o.c.mu.Unlock()
	for _, w := range watchers {
		f := w.stdout
		if o.stream == 2 {
			f = w.stderr
		}
		if f != nil {
			// Whoever does not read any more misses it; the process goes on.
			_, _ = f.Write(p)
		}
	}
	return len(p), nil
}

// logs copies the log to a pipe.
func (c *container) logs(ctx context.Context, to *os.File, follow bool) error {
	if to == nil {
		return worker.WithKind(worker.Invalid, errors.New("reading logs: nowhere to write them"))
	}
	defer to.Close()
	if c.spec.NoLog {
		return worker.WithKind(worker.Refused, fmt.Errorf("container %s keeps no log", c.id))
	}
	follow = follow && c.inspect().Status == Running
	err := c.log.copyTo(ctx, to, follow)
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}
