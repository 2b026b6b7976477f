package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/registry"
)

// Delivery is the way to one output, open while the image is still being built: a layer that is offered is brought into the form that the
// output wants and sent to the output's registries in the background. What makes an image of it, the manifests last, is written by Finish
// alone: of a build that fails a registry has some blobs without a name at most.
type Delivery struct {
	*exporter
	// ctx is the background's, stop ends it.
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup
	// repos are those to push to.
	repos []string

	mu     sync.Mutex
	behind *progress.Vertex // of the background; nil until there is something to do
	err    error            // how the background ended
}

// Begin opens the way to an output. The images of req may be missing: Finish is given them. Stop must be called.
func Begin(ctx context.Context, o Output, req Request, d Deps) (*Delivery, error) {
	if err := Check([]Output{o}, req.Names, max(1, len(req.Images)), d.Stdout); err != nil {
		return nil, err
	}
	if err := o.writable(); err != nil {
		return nil, fmt.Errorf("exporting to type=%s: %w", o.Type, err)
	}
	e, err := newExporter(o, req, d)
	if err != nil {
		return nil, err
	}
	x := &Delivery{exporter: e}
	if o.pushes() {
		names, err := e.allNames()
		if err != nil {
			return nil, err
		}
		if x.repos, _, err = e.byRepository(image.Set{}, names); err != nil {
			return nil, err
		}
	}
	x.ctx, x.stop = context.WithCancel(ctx)
	return x, nil
}

// Offer says that a layer is there which will be in the image; base is set for those of the base image. It returns at once. What goes wrong in
// the background is tried again by Finish, but for what a registry refuses, which Deps.Refused is told. It must not be called after Finish.
func (x *Delivery) Offer(l layer.Layer, base bool) {
	if len(x.repos) == 0 && !x.rewrites(l, base) {
		return
	}
	v := x.begun()
	x.work.Go(func() {
		if err := x.advance(v, l, base); err != nil && x.ctx.Err() == nil {
			x.failed(v, err)
		}
	})
}

// begun is the vertex of what is done in the background.
func (x *Delivery) begun() *progress.Vertex {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.behind == nil {
		name := "exporting layers"
		if len(x.repos) > 0 {
			name = "pushing layers"
		}
		x.behind = progress.Start(x.ctx, x.id("layers"), name)
	}
	return x.behind
}

// id is that of a vertex.
func (x *Delivery) id(part string) string { return fmt.Sprintf("%s/%d", part, x.Number) }

// advance does for a layer what can be done before the image is known.
func (x *Delivery) advance(v *progress.Vertex, l layer.Layer, base bool) error {
	l, err := x.form(x.ctx, v, l, base)
	if err != nil {
		return err
	}
	for i, repo := range x.repos {
		if err := x.sendLayer(x.ctx, blobTo{repo: repo, earlier: x.repos[:i], vertex: v, open: x.whole}, l); err != nil {
			return saying(err, "pushing to %s", repo)
		}
	}
	return nil
}

// failed notes what went wrong in the background. What a registry refuses now it refuses at the end too.
func (x *Delivery) failed(v *progress.Vertex, err error) {
	if e, ok := errors.AsType[*registry.Error](err); !ok || !e.Refused() || x.Refused == nil {
		fmt.Fprintf(v.Stderr(), "to be tried again: %v\n", err)
		return
	}
	err = fmt.Errorf("exporting to type=%s: %w", x.Type, err)
	x.mu.Lock()
	first := x.err == nil
	if first {
		x.err = err
	}
	x.mu.Unlock()
	if first {
		x.Refused(err)
	}
}

// whole opens a layer that is in the store from its beginning to its end: a step that waits for the same layer is not to wait for what takes
// it in an upload.
func (x *Delivery) whole(ctx context.Context, l layer.Layer) (io.ReadCloser, error) {
	if _, held := x.Store.HasBlob(l.Descriptor.Digest); !held {
		rc, err := x.Blob(ctx, l)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(io.Discard, rc)
		if err := errors.Join(err, rc.Close()); err != nil {
			return nil, err
		}
	}
	return x.Blob(ctx, l)
}

// Finish waits for the background and delivers the image. It is called once.
func (x *Delivery) Finish(ctx context.Context, images []image.Spec) (Result, error) {
	if err := Check([]Output{x.Output}, x.Names, len(images), x.Stdout); err != nil {
		return Result{}, err
	}
	x.join()
	x.Images = images
	x.vertex = progress.Start(ctx, x.id("export"), vertexName(x.Output))
	res, err := x.run(ctx)
	if err != nil {
		err = fmt.Errorf("exporting to type=%s: %w", x.Type, err)
	}
	x.vertex.Done(err)
	return res, err
}

// Stop ends what is still under way in the background, and returns when it has ended.
func (x *Delivery) Stop() {
	x.stop()
	x.join()
}

// join waits for the background and shows how it ended.
func (x *Delivery) join() {
	x.work.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.behind == nil {
		return
	}
	err := x.err
	if err == nil {
		err = context.Cause(x.ctx)
	}
	x.behind.Done(err)
	x.behind = nil
}
