package build

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/solve"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// parsePhase reads the Dockerfile.
func parsePhase(in *inputs, o Options) (*dockerfile.File, error) {
	return dockerfile.Parse(in.main.DockerfileName, in.main.Dockerfile, dockerfile.Options{BuildArgs: o.Args.BuildArgs})
}

// planPhase plans the Dockerfile for every platform.
func planPhase(ctx context.Context, file *dockerfile.File, in *inputs, o Options) ([]*plan.Plan, error) {
	v := progress.Start(ctx, "plan", "[internal] planning "+file.Name)
	wanted := o.Args.Platforms
	if len(wanted) == 0 {
		wanted = []ocispec.Platform{platforms.DefaultSpec()}
	}
	out := make([]*plan.Plan, len(wanted))
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range wanted {
		g.Go(func() (err error) {
			out[i], err = plan.New(ctx, file, planOptions(p, in, o))
			return err
		})
	}
	err := g.Wait()
	if err == nil {
		report(v, file, out[0])
	}
	v.Done(err)
	return out, err
}

func planOptions(p ocispec.Platform, in *inputs, o Options) plan.Options {
	return plan.Options{
		Target: o.Args.Target, Platform: platforms.Normalize(p), BuildPlatform: platforms.Normalize(platforms.DefaultSpec()),
		ImplicitPlatform: len(o.Args.Platforms) == 0, MultiPlatform: o.Result.Index || len(o.Args.Platforms) > 1,
		BuildArgs: o.Args.BuildArgs, Labels: o.Args.Labels, Contexts: in.named,
		Network: o.Args.Network, AllowHostNetwork: o.Args.AllowHostNetwork, AllowInsecure: o.Args.AllowInsecure,
		Images: o.Parts.Images, IgnorePatterns: in.main.IgnorePatterns(), EpochOf: in.epochOf, CheckRemote: source.CheckRemote,
		NoCache: o.Cache.NoCache, NoCacheStages: o.Cache.NoCacheFilter,
	}
}

// report shows what the checks found, and build arguments that nobody declared.
func report(v *progress.Vertex, file *dockerfile.File, p *plan.Plan) {
	lines := strings.Split(string(file.Data), "\n")
	for _, w := range p.Warnings {
		first, last := max(w.Location.First, 1), min(w.Location.Last, len(lines))
		var src string
		if first <= last {
			src = strings.Join(lines[first-1:last], "\n")
		}
		v.Warn(progress.Warning{Rule: w.Rule, Message: w.Detail, URL: w.URL, File: w.Location.File, First: w.Location.First,
			Last: w.Location.Last, Source: []byte(src)})
	}
	if len(p.UnusedArgs) > 0 {
		sort.Strings(p.UnusedArgs)
		v.Warn(progress.Warning{Rule: "UnusedBuildArgs", Message: fmt.Sprintf("build arguments that no ARG declares: %s", strings.Join(p.UnusedArgs, ", "))})
	}
}

// solvePhase carries out the plans, and offers what becomes part of the image to where it goes.
func solvePhase(ctx context.Context, plans []*plan.Plan, r *reuse, in *inputs, d *deliveries) ([]*solve.Result, error) {
	o := r.options
	so := solve.Options{
		Store: o.Parts.Store, Cache: r.recorder, Images: r.images, Contexts: in,
		Snapshotter: o.Parts.Snapshotter, Executor: o.Parts.Executor, Run: o.Run, Reuse: o.Cache, FillCache: r.mounts.fill,
		Offer: d.offer,
	}
	if name := o.Args.BuildArgs["BUILDKIT_SANDBOX_HOSTNAME"]; name != "" {
		so.Run.Hostname = name
	}
	return solve.Solve(ctx, plans, so)
}

// specs says what images the results make.
func specs(plans []*plan.Plan, results []*solve.Result) []image.Spec {
	out := make([]image.Spec, len(plans))
	for i, r := range results {
		out[i] = image.FromPlan(plans[i].Platform, r.Stage, r.Base, func(st *plan.Stage) (made []image.Layer) {
			for _, m := range r.Of(st) {
				made = append(made, image.Layer{Layer: m.Layer, Created: m.Created})
			}
			return made
		})
	}
	return out
}
