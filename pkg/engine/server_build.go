package engine

import (
	"context"
	"errors"

	"github.com/cairn-build/cairn/pkg/build"
	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/secret"
	"github.com/cairn-build/cairn/pkg/solve"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/worker"
)

// reporter sends progress to the caller of a build.
type reporter struct{ r *worker.Request }

// Event implements progress.Sink.
func (p reporter) Event(e progress.Event) { p.r.Emit(encodeEvent(e)) }

// build is methodBuild.
func (s *server) build(ctx context.Context, r *worker.Request) (any, error) {
	var req BuildRequest
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	o, err := s.buildOptions(req, r)
	if err != nil {
		return nil, err
	}
	res, err := build.Build(ctx, o)
	if err != nil {
		return nil, err
	}
	out := BuildResult{Descriptor: res.Descriptor, ImageID: res.ConfigDigest}
	return out, nil
}

// buildOptions translates a request.
func (s *server) buildOptions(req BuildRequest, r *worker.Request) (build.Options, error) {
	images := source.NewImages(source.ImagesOptions{Store: s.store, Registry: s.registry, Pull: req.Pull})
	snaps, err := s.rung.NewSnapshotter(images.Blob)
	if err != nil {
		return build.Options{}, err
	}
	o := build.Options{
		Input: build.Input{Context: req.Context, Dockerfile: req.Dockerfile, Named: req.Named},
		Args: build.Args{
			Target: req.Target, Platforms: req.Platforms, BuildArgs: req.BuildArgs, Labels: req.Labels,
			Network: req.Network, AllowHostNetwork: req.Network == "host",
		},
		Run:    solve.RunOptions{Secrets: map[string]secret.Value{}, AllowSecretInLayer: req.AllowSecretInLayer},
		Cache:  solve.CacheOptions{NoCache: req.NoCache},
		Result: build.ResultOptions{Tags: req.Tags},
		Parts: build.Parts{
			Store: s.store, Images: images, Registry: s.registry, Snapshotter: snaps, Executor: s.executor, Progress: reporter{r},
		},
	}
	if f := r.Take(0); f != nil {
		defer func() { r.Files = append(r.Files, f) }() // to be closed with the request
		o.Input.Stdin = f
	}
	for id, value := range req.Secrets {
		o.Run.Secrets[id] = secret.New(value)
	}
	for _, text := range req.Outputs {
		out, err := export.ParseOutput(text)
		if err != nil {
			return o, worker.WithKind(worker.Invalid, err)
		}
		if out.Dest == export.Stdout {
			return o, worker.WithKind(worker.Invalid, errors.New("building: an output of a library's build goes to a file, not to the standard output"))
		}
		o.Result.Outputs = append(o.Result.Outputs, out)
	}
	return o, nil
}
