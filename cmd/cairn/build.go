package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cairn-build/cairn/pkg/build"
	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/urfave/cli/v2"
)

func (in invocation) buildCommand() *cli.Command {
	return &cli.Command{
		Name:      "build",
		Usage:     "build an image from a Dockerfile",
		ArgsUsage: "[flags] CONTEXT",
		Description: "CONTEXT is a directory, the URL of a git repository or a tar archive, or - for a tar archive or a Dockerfile on\n" +
			"standard input. With neither --output nor --push the image stays in the local store.\n\n" +
			"Exit codes: 0 built, 1 the build failed or --check found something, 2 the command line is wrong.",
		Flags:  buildFlags(),
		Action: in.build,
	}
}

// tailLines is how much of a failed step's output is shown again with its error.
const tailLines = 20

func (in invocation) build(c *cli.Context) (err error) {
	req, err := in.parseBuild(c)
	if err != nil {
		return err
	}
	bound, err := in.autoBound()
	if err != nil {
		return err
	}
	if done, err := in.enter(req.isolation); done {
		return err
	}
	req.options.Input.Stdin = stoppableIn(c.Context, req.options.Input.Stdin)
	req.options.Result.Stdout = stoppableOut(c.Context, req.options.Result.Stdout)
	if req.options.Run.Secrets, err = readSecrets(req.secrets, in.env); err != nil {
		return err
	}
	if err := req.checkFiles(); err != nil {
		return err
	}
	e, err := in.openEngine(c, req.isolation)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	renderer, err := in.showProgress(req.progress)
	if err != nil {
		return err
	}
	recorder := progress.NewRecorder(renderer, tailLines)
	req.options.Parts = e.parts(recorder)
	if req.call.of != "" {
		return in.describe(c.Context, req, renderer)
	}
	res, err := build.Build(c.Context, req.options)
	if cerr := renderer.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		if s := e.rung.Sentence(); s != "" && c.Context.Err() == nil {
			warn(in.stderr, "%s; see `cairn doctor`", s)
		}
		return withTail(c.Context, err, recorder)
	}
	if err := in.finish(req, res); err != nil {
		return err
	}
	return e.trim(c.Context, bound)
}

// checkFiles finds out before anything is built whether what there will be to say about it can be written.
func (r *buildRequest) checkFiles() error {
	for flag, file := range map[string]string{"iidfile": r.iidFile, "metadata-file": r.metadataFile} {
		if file == "" {
			continue
		}
		if err := export.CheckFile(file); err != nil {
			return usagef("--%s: %w", flag, err)
		}
	}
	return nil
}

// finish writes what the command line wants to know about the result. One that cannot be written keeps no other from it: the image is there.
func (in invocation) finish(req *buildRequest, res build.Result) error {
	var errs []error
	if req.metadataFile != "" {
		data, err := json.MarshalIndent(res.Exported.Metadata(), "", "  ")
		if err == nil {
			err = export.WriteFile(req.metadataFile, append(data, '\n'))
		}
		errs = append(errs, err)
	}
	id := res.Exported.ImageID().String()
	if req.iidFile != "" {
		errs = append(errs, export.WriteFile(req.iidFile, []byte(id)))
	}
	if req.quiet && id != "" && !req.toStdout() {
		_, err := fmt.Fprintln(in.stdout, id)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// toStdout reports whether standard output carries an image already.
func (r *buildRequest) toStdout() bool {
	for _, o := range r.options.Result.Outputs {
		if o.Dest == export.Stdout {
			return true
		}
	}
	return false
}

// stepFailure is the failure of a build with the end of the failing step's output.
type stepFailure struct {
	error
	step string
	tail []string
}

func (s *stepFailure) Unwrap() error { return s.error }

// withTail adds what the failed step put out last. A build that was stopped has no step to blame.
func withTail(ctx context.Context, err error, r *progress.Recorder) error {
	if ctx.Err() != nil {
		return err
	}
	for _, f := range r.Failures() {
		if errors.Is(err, f.Err) && len(f.Tail) > 0 {
			return &stepFailure{error: err, step: f.Name, tail: f.Tail}
		}
	}
	return err
}
