package build

import (
	"context"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/solve"
)

// deliveries are the ways to all outputs, open while the image is built.
type deliveries struct {
	outputs []*export.Delivery
	// building is the context of what is built for them. It ends when a registry refuses the image, with the error as its cause: nothing would
	// come of going on.
	building context.Context
	stop     context.CancelCauseFunc
}

// openDeliveries opens the ways to the outputs; with none the image stays in the local store.
func openDeliveries(ctx context.Context, plans []*plan.Plan, r *reuse) (_ *deliveries, err error) {
	o := r.options
	d := &deliveries{}
	d.building, d.stop = context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	req := export.Request{
		Names: o.Result.Tags, Annotations: o.Result.Annotations, Epoch: plans[0].Created(), Fields: r.fields(), Index: o.Result.Index,
	}
	deps := export.Deps{
		Store: o.Parts.Store, Registry: o.Parts.Registry, Blob: r.images.Blob, Stdout: o.Result.Stdout, Refused: d.stop,
		Tree: func(ctx context.Context, chain []layer.Layer) (layer.Tree, error) {
			return solve.Tree(ctx, chain, r.images, o.Parts.Snapshotter)
		},
	}
	outputs := o.Result.Outputs
	if len(outputs) == 0 {
		outputs = []export.Output{{Type: export.TypeImage}}
	}
	for i, out := range outputs {
		req.Number = i
		x, err := export.Begin(ctx, out, req, deps)
		if err != nil {
			return nil, err
		}
		d.outputs = append(d.outputs, x)
	}
	return d, nil
}

// offer is solve.Options.Offer.
func (d *deliveries) offer(l layer.Layer, base bool) {
	for _, x := range d.outputs {
		x.Offer(l, base)
	}
}

// reason is why building ended with err: what a registry said, if that stopped it.
func (d *deliveries) reason(ctx context.Context, err error) error {
	if ctx.Err() == nil && d.building.Err() != nil {
		return context.Cause(d.building)
	}
	return err
}

// close ends what is still under way and waits for it.
func (d *deliveries) close() {
	for _, x := range d.outputs {
		x.Stop()
	}
	d.stop(nil)
}

// exportPhase assembles the image and delivers it to every output. Assembling is part of exporting because an output's attributes (compression,
// rewrite-timestamp, annotations) decide about the image's bytes.
func exportPhase(ctx context.Context, plans []*plan.Plan, results []*solve.Result, d *deliveries) (Result, error) {
	var res Result
	for _, x := range d.outputs {
		done, err := x.Finish(ctx, specs(plans, results))
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
