package build

import (
	"context"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/solve"
)

// exportPhase assembles the image and delivers it to every output; with none it stays in the local store. Assembling is part of exporting because an output's
// attributes (compression, rewrite-timestamp, annotations) decide about the image's bytes.
func exportPhase(ctx context.Context, plans []*plan.Plan, results []*solve.Result, r *reuse) (Result, error) {
	o := r.options
	req := export.Request{
		Images: specs(plans, results), Names: o.Result.Tags, Annotations: o.Result.Annotations, Epoch: epoch(plans[0]), Fields: r.fields(),
		Index: o.Result.Index,
	}
	deps := export.Deps{
		Store: o.Parts.Store, Registry: o.Parts.Registry, Blob: r.images.Blob, Stdout: o.Result.Stdout,
		Tree: func(ctx context.Context, chain []layer.Layer) (layer.Tree, error) {
			return solve.Tree(ctx, chain, r.images, o.Parts.Snapshotter)
		},
	}
	outputs := o.Result.Outputs
	if len(outputs) == 0 {
		outputs = []export.Output{{Type: export.TypeImage}}
	}
	var res Result
	for _, out := range outputs {
		done, err := export.Export(ctx, out, req, deps)
		if err != nil {
			return Result{}, err
		}
		res.add(done)
	}
	return res, nil
}

// add takes over what the first output that made an image says about it.
func (r *Result) add(e export.Result) {
	if r.Digest != "" || e.Set.Descriptor.Digest == "" {
		return
	}
	r.Digest, r.Descriptor, r.ConfigDigest, r.Exported = e.Set.Descriptor.Digest, e.Set.Descriptor, e.Set.ConfigDigest(), e
}
