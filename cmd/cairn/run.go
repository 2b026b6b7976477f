package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/sys/signal"
	"github.com/urfave/cli/v2"
)

func (in invocation) run(c *cli.Context) error {
	req, err := in.parseRun(c)
	if err != nil {
		return err
	}
	if req.detach {
		return in.runDetached(c, req)
	}
	if done, err := in.enter(req.isolation); done {
		return notRun(err)
	}
	req.spec.DefaultHostname = newContainerID()[:12]
	return notRun(in.runImage(c, req))
}

// notRun gives an error that kept the command from running Docker's exit code for that.
func notRun(err error) error {
	var e *cliError
	switch {
	case err == nil, isExited(err):
		return err
	case errors.As(err, &e):
		e.code = exitNoRun
		return err
	}
	return &cliError{err: err, code: exitNoRun}
}

func isExited(err error) bool {
	var e exited
	return errors.As(err, &e)
}

// runImage runs the command over a writable layer of the image that is dropped afterwards.
func (in invocation) runImage(c *cli.Context, req *runRequest) (err error) {
	e, err := in.openEngine(c, req.isolation)
	if err != nil {
		return err
	}
	defer func() { err = joinAfter(err, e.close()) }()
	rw, img, err := in.openImage(c.Context, e, req)
	if err != nil {
		return err
	}
	defer func() { err = joinAfter(err, rw.Release()) }()
	spec := &req.spec
	spec.Root, spec.Owners = rw.Root(), snapshot.OwnersOf(rw)
	if err := complete(&spec.Process, img, req); err != nil {
		return err
	}
	if name := img.Config.Config.StopSignal; name != "" {
		sig, err := signal.ParseSignal(name)
		if err != nil {
			return fmt.Errorf("reading the stop signal of image %s: %w", req.image, err)
		}
		spec.StopSignal = int(sig)
	}
	if err := pathrs.MkdirAll(rw.Root(), spec.Process.Dir, 0o755); err != nil {
		return fmt.Errorf("making working directory %s: %w", spec.Process.Dir, err)
	}
	err = e.rung.Executor.Run(c.Context, *spec)
	if exit, ok := errors.AsType[*executor.ExitError](err); ok {
		if exit.Reason != "" {
			writeLine(in.stderr, "cairn: "+exit.Reason)
		}
		return exited{exit.Code}
	}
	return err
}

// joinAfter adds what went wrong when cleaning up after a command, whose own exit code comes first.
func joinAfter(err, cleanup error) error {
	if isExited(err) || cleanup == nil {
		return err
	}
	return errors.Join(err, cleanup)
}

// openImage brings the image's root filesystem; progress is shown only when something has to be fetched.
func (in invocation) openImage(ctx context.Context, e *engine, req *runRequest) (_ snapshot.RWLayer, _ plan.ResolvedImage, err error) {
	show, err := in.showProgress("quiet")
	if err != nil {
		return nil, plan.ResolvedImage{}, err
	}
	defer func() { err = errors.Join(err, show.Close()) }()
	ctx = progress.With(ctx, show)
	img, err := resolveFor(ctx, e.images, req.image, req.platform)
	if err != nil {
		return nil, img, err
	}
	layers, err := e.images.Layers(ctx, img)
	if err != nil {
		return nil, img, err
	}
	ro, err := e.rung.Snapshotter.Open(ctx, layers)
	if err != nil {
		return nil, img, err
	}
	defer func() { err = errors.Join(err, ro.Release()) }()
	rw, err := ro.NewRWLayer()
	return rw, img, err
}

// complete fills in what the command line leaves to the image: entrypoint and command, environment, user, working directory.
func complete(p *executor.Process, img plan.ResolvedImage, req *runRequest) error {
	conf := img.Config.Config
	entrypoint, command := conf.Entrypoint, conf.Cmd
	if req.overrideEntrypoint {
		entrypoint, command = nil, nil // an entrypoint of one's own does not get the image's arguments, as in docker run
		if req.entrypoint != "" {
			entrypoint = []string{req.entrypoint}
		}
	}
	if len(req.command) > 0 {
		command = req.command
	}
	p.Args = append(append([]string(nil), entrypoint...), command...)
	if len(p.Args) == 0 {
		return failf("image %s names no command", req.image).withHint("cairn run %s COMMAND", req.image)
	}
	p.Env = mergeEnv(conf.Env, req.env)
	if req.terminal {
		p.Env = mergeEnv([]string{"TERM=xterm"}, p.Env) // Docker's word, unless the image or the user has another
	}
	p.User, p.Dir = conf.User, conf.WorkingDir
	if req.user != "" {
		p.User = req.user
	}
	if req.workdir != "" {
		p.Dir = req.workdir
	}
	if p.Dir == "" {
		p.Dir = "/"
	}
	return nil
}

// mergeEnv is an environment with some variables set or replaced.
func mergeEnv(env, changes []string) []string {
	out := append([]string(nil), env...)
	for _, change := range changes {
		name, _, _ := strings.Cut(change, "=")
		kept := out[:0]
		for _, e := range out {
			if !strings.HasPrefix(e, name+"=") {
				kept = append(kept, e)
			}
		}
		out = append(kept, change)
	}
	return out
}
