package ladder

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/namespace"
	"github.com/cairn-build/cairn/executor/ptrace"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/cairn-build/cairn/snapshot/native"
	"github.com/cairn-build/cairn/snapshot/overlay"
)

// open makes the parts of one rung.
func (r *Rung) open(o Options) error {
	switch r.Isolation {
	case Userns, UsernsSingle:
		return r.openNamespaces(o)
	case Ptrace:
		return r.openPtrace(o)
	}
	// There is no executor for it, on purpose: docs/confinement.md has the reasons.
	return hint.With(errors.New("there is no such executor: without mounts, /proc takes a filter of system calls, and with one, setuid programs do nothing"),
		"ptrace works in the same places, with setuid programs and every mount")
}

// openPtrace makes the parts that work with nothing but seccomp and ptrace. The executor puts a copy in the place of a shared file before it
// changes, so that the snapshotter may share by hard links.
func (r *Rung) openPtrace(o Options) error {
	r.NewSnapshotter = func(b Blob) (snapshot.Snapshotter, error) {
		return native.New(native.Options{Store: o.Store, Blob: b, Link: true})
	}
	var err error
	if r.Snapshotter, err = r.NewSnapshotter(o.Blob); err != nil {
		return err
	}
	dir, err := o.Store.TempDir("exec-")
	if err != nil {
		return err
	}
	r.closers = append(r.closers, func() error { return o.Store.RemoveTemp(dir) })
	exec, err := ptrace.New(ptrace.Options{Dir: filepath.Join(dir, "state")})
	if err != nil {
		return err
	}
	r.closers = append(r.closers, exec.Close)
	r.Executor = exec
	return nil
}

// openNamespaces makes the parts that work with mounts.
func (r *Rung) openNamespaces(o Options) error {
	r.NewSnapshotter = func(b Blob) (snapshot.Snapshotter, error) {
		return overlay.New(overlay.Options{Store: o.Store, Blob: b, OneOwner: r.Isolation == UsernsSingle})
	}
	var err error
	if r.Snapshotter, err = r.NewSnapshotter(o.Blob); err != nil {
		return err
	}
	if err := try(r.Snapshotter); err != nil {
		return err
	}
	dir, err := o.Store.TempDir("exec-")
	if err != nil {
		return err
	}
	r.closers = append(r.closers, func() error { return o.Store.RemoveTemp(dir) })
	exec, err := newSandboxes(r.Isolation, filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	r.closers = append(r.closers, exec.Close)
	r.Executor = exec
	return nil
}

// sandboxes is an executor that has to be closed.
type sandboxes interface {
	executor.Executor
	Close() error
}

// newSandboxes returns the cheapest executor that works here. Where there is one id, only one of them imitates others.
func newSandboxes(i Isolation, dir string) (sandboxes, error) {
	n, err := namespace.New(namespace.Options{Dir: dir})
	if err == nil {
		return n, nil
	}
	if i == UsernsSingle {
		return nil, err
	}
	return newRunc(dir, err)
}

// try makes and drops one empty root filesystem.
func try(s snapshot.Snapshotter) error {
	ro, err := s.Open(context.Background(), nil)
	if err != nil {
		return fmt.Errorf("trying the snapshotter %s: %w", s.Name(), err)
	}
	rw, err := ro.NewRWLayer()
	if err != nil {
		return fmt.Errorf("trying the snapshotter %s: %w", s.Name(), errors.Join(err, ro.Release()))
	}
	return errors.Join(rw.Release(), ro.Release())
}
