// Package build turns a Dockerfile and its context into an image and delivers it.
//
//	parse ─► plan ─► solve ─► assemble ─► export
//
// Build is that sentence. It wires the phases and decides nothing that a phase could decide for itself.
package build

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/source"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Build builds one image for each of o.Args.Platforms and delivers it as o.Result says. Errors of the Dockerfile are *dockerfile.Error, of
// a step *solve.StepError; a command that ran and failed is a *solve.ProcessError inside that.
func Build(ctx context.Context, o Options) (_ Result, err error) {
	if err := o.Check(); err != nil {
		return Result{}, err
	}
	if o, err = o.withBuilderArgs(); err != nil {
		return Result{}, err
	}
	ctx = progress.With(ctx, o.Parts.Progress)
	in, err := openInputs(ctx, o)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, in.close()) }()

	file, err := parsePhase(in, o)
	if err != nil {
		return Result{}, err
	}
	plans, err := planPhase(ctx, file, in, o)
	if err != nil {
		return Result{}, err
	}
	if err := o.Share.check(plans, o.Result.Outputs); err != nil {
		return Result{}, err
	}
	r := openReuse(ctx, in, o)
	defer r.close()
	defer r.explain(ctx, plans)
	for {
		r.begin()
		res, err := attempt(ctx, plans, r, in)
		if !r.again(ctx, err) {
			return res, locate(file, err)
		}
	}
}

// Check refuses options that cannot work whatever the Dockerfile says. It reads no file and writes none.
func (o Options) Check() error {
	if err := export.Check(o.Result.Outputs, o.Result.Tags, max(1, len(o.Args.Platforms)), o.Result.Stdout); err != nil {
		return err
	}
	o, err := o.withBuilderArgs()
	if err != nil {
		return err
	}
	targets, annotations := o.Args.Platforms, slices.Clone(o.Result.Annotations)
	if len(targets) == 0 {
		// It is the Dockerfile that says what the image is for.
		targets = make([]ocispec.Platform, 1)
		annotations = slices.DeleteFunc(annotations, func(a image.Annotation) bool { return a.Platform != nil })
	}
	if err := annotations.Check(targets, o.Result.Index); err != nil {
		return err
	}
	for name, where := range o.Input.Named {
		if err := source.CheckNamed(where); err != nil {
			return fmt.Errorf("opening build context %s: %w", name, err)
		}
	}
	return nil
}

// attempt solves, exports, and shares the cache.
func attempt(ctx context.Context, plans []*plan.Plan, r *reuse, in *inputs) (_ Result, err error) {
	d, err := openDeliveries(ctx, plans, r)
	if err != nil {
		return Result{}, err
	}
	defer d.close()
	results, err := solvePhase(d.building, plans, r, in, d)
	if err != nil {
		return Result{}, d.reason(ctx, err)
	}
	if err := r.prove(ctx, results); err != nil {
		return Result{}, err
	}
	res, err := exportPhase(ctx, plans, results, d)
	if err != nil {
		return Result{}, err
	}
	if err := r.export(ctx, results); err != nil {
		return Result{}, err
	}
	return res, r.mounts.export(ctx, plans)
}
