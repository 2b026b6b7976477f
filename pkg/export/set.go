package export

import (
	"context"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/progress"
)

// Push sends an image as it is, as the local store has it, to the registries of names.
func Push(ctx context.Context, set image.Set, names []string, d Deps) error {
	o := Output{Type: TypeRegistry}
	v := progress.Start(ctx, "push/"+set.Descriptor.Digest.String(), "pushing "+set.Descriptor.Digest.String())
	e := exporter{Output: o, Request: Request{Names: names}, Deps: d, vertex: v}
	err := e.push(ctx, set, names)
	v.Done(err)
	return err
}
