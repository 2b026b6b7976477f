package export

import (
	"context"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/progress"
)

// Push sends an image as it is, as the local store has it, to the registries of names.
func Push(ctx context.Context, set image.Set, names []string, d Deps) error {
	o := Output{Type: TypeRegistry}
	e, err := newExporter(o, Request{Names: names}, d)
	if err != nil {
		return err
	}
	e.vertex = progress.Start(ctx, "push/"+set.Descriptor.Digest.String(), "pushing "+set.Descriptor.Digest.String())
	err = e.push(ctx, set, names)
	e.vertex.Done(err)
	return err
}
