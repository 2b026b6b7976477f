package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetch is a blob on its way into the store.
type fetch struct{ done chan struct{} }

// Blob returns the compressed bytes of a layer, verified: from the store, or else from the layer's Origin, kept in the store on the way.
// A second reader of a blob that is being fetched waits until it is held; so whoever has a Blob must read or close it.
func (im *Images) Blob(ctx context.Context, l layer.Layer) (io.ReadCloser, error) {
	d := l.Descriptor.Digest
	if _, err := pathOf(d); err != nil {
		return nil, fmt.Errorf("reading layer %s: %w", l.DiffID, err)
	}
	for {
		rc, err := im.o.Store.OpenBlob(d)
		if !errors.Is(err, fs.ErrNotExist) {
			return rc, err
		}
		im.mu.Lock()
		f, busy := im.blobs[d]
		if !busy {
			f = &fetch{done: make(chan struct{})}
			im.blobs[d] = f
		}
		im.mu.Unlock()
		if !busy {
			rc, err := im.fetch(ctx, l, f)
			if err != nil {
				im.finish(l, f)
				return nil, &layer.UnusableError{Layer: l, Err: err}
			}
			return rc, nil
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("fetching layer %s: %w", d, context.Cause(ctx))
		}
	}
}

// finish lets those go on who wait for a blob.
func (im *Images) finish(l layer.Layer, f *fetch) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.blobs[l.Descriptor.Digest] == f {
		delete(im.blobs, l.Descriptor.Digest)
		close(f.done)
	}
}

func (im *Images) fetch(ctx context.Context, l layer.Layer, f *fetch) (io.ReadCloser, error) {
	d := l.Descriptor
	// It may have come since it was looked for.
	if rc, err := im.o.Store.OpenBlob(d.Digest); err == nil {
		im.finish(l, f)
		return rc, nil
	}
	switch {
	case l.Origin == "":
		return nil, fmt.Errorf("fetching layer %s: it is not held, and it is not known where it is", d.Digest)
	case strings.HasPrefix(l.Origin, layoutScheme):
		return im.fetchLayout(ctx, l, f)
	case im.o.Offline:
		return nil, fmt.Errorf("fetching layer %s of %s: offline, and it is not held", d.Digest, l.Origin)
	}
	v := progress.Start(ctx, "fetch "+d.Digest.String(), "fetching "+familiar(l.Origin)+" "+d.Digest.Encoded()[:12])
	src, err := im.o.Registry.FetchBlob(ctx, l.Origin, d)
	if err != nil {
		v.Done(err)
		return nil, err
	}
	w, err := im.o.Store.NewBlob(ctx)
	if err != nil {
		src.Close()
		v.Done(err)
		return nil, fmt.Errorf("fetching layer %s: %w", d.Digest, err)
	}
	return &tee{layer: l, src: src, w: w, desc: d, vertex: v, finish: func() { im.finish(l, f) }}, nil
}

// fetchLayout copies a blob into the store from the OCI layout that is its Origin (a cache of type=local).
func (im *Images) fetchLayout(ctx context.Context, l layer.Layer, f *fetch) (io.ReadCloser, error) {
	lay, err := (&layout{path: strings.TrimPrefix(l.Origin, layoutScheme)}).open()
	if err != nil {
		return nil, err
	}
	defer lay.close()
	if err := im.importBlob(ctx, lay, l.Descriptor); err != nil {
		return nil, fmt.Errorf("fetching layer %s of %s: %w", l.Descriptor.Digest, l.Origin, err)
	}
	im.finish(l, f)
	return im.o.Store.OpenBlob(l.Descriptor.Digest)
}

func familiar(repo string) string {
	n, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return repo
	}
	return reference.FamiliarName(n)
}

// maxTail is how much of a blob is read at Close so that it can be kept: a decompressor may stop a little before the end.
const maxTail = 1 << 20

// tee is a blob being read and written to the store. It is kept when it has been read to the end.
type tee struct {
	layer  layer.Layer
	src    io.ReadCloser
	w      *store.BlobWriter
	desc   ocispec.Descriptor
	vertex *progress.Vertex
	finish func()

	n     int64
	shown time.Time
	err   error
	ended bool
}

// Read implements io.Reader.
func (t *tee) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.src.Read(p)
	if n > 0 {
		if _, werr := t.w.Write(p[:n]); werr != nil {
			return 0, t.end(fmt.Errorf("keeping layer %s: %w", t.desc.Digest, werr))
		}
		t.n += int64(n)
		if now := time.Now(); now.Sub(t.shown) > 100*time.Millisecond {
			t.shown = now
			t.vertex.Count(t.desc.Digest.String(), t.n, t.desc.Size)
		}
	}
	if err == nil {
		return n, nil
	}
	if err == io.EOF {
		if _, cerr := t.w.Commit(t.desc.Digest); cerr != nil {
			return n, t.end(fmt.Errorf("keeping layer %s: %w", t.desc.Digest, cerr))
		}
		return n, t.end(err)
	}
	return n, t.end(&layer.UnusableError{Layer: t.layer, Err: err})
}

// end notes how it ended; only the first end counts.
func (t *tee) end(err error) error {
	if t.ended {
		return t.err
	}
	t.ended, t.err = true, err
	t.w.Abort()
	t.src.Close()
	if err == io.EOF {
		t.vertex.Count(t.desc.Digest.String(), t.n, t.desc.Size)
		t.vertex.Done(nil)
	} else {
		t.vertex.Done(err)
	}
	t.finish()
	return err
}

// Close implements io.Closer.
func (t *tee) Close() error {
	if !t.ended && t.desc.Size-t.n <= maxTail {
		_, _ = io.Copy(io.Discard, t)
	}
	_ = t.end(errors.New("it was not read to the end"))
	return nil
}

// Fetch makes sure that the store holds the blob of a layer.
func (im *Images) Fetch(ctx context.Context, l layer.Layer) error {
	if _, ok := im.o.Store.HasBlob(l.Descriptor.Digest); ok {
		return nil
	}
	rc, err := im.Blob(ctx, l)
	if err != nil {
		return err
	}
	defer rc.Close()
	_, err = io.Copy(io.Discard, rc)
	return err
}

// Index returns the index of a layer: from the store, or else by reading its blob once (without unpacking it).
func (im *Images) Index(ctx context.Context, l layer.Layer) (*layer.Index, error) {
	ix, err := im.o.Store.LayerIndex(l.DiffID)
	if err == nil {
		return ix, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading index of layer %s: %w", l.DiffID, err)
	}
	return im.index.do(ctx, l.DiffID, func() (*layer.Index, error) {
		rc, err := im.Blob(ctx, l)
		if err != nil {
			return nil, err
		}
		defer rc.Close()
		ix, err := layer.Unpack(ctx, rc, l, "", nil, im.o.Limits)
		if err != nil {
			return nil, &layer.UnusableError{Layer: l, Err: fmt.Errorf("reading layer %s: %w", l.Descriptor.Digest, err)}
		}
		// Only at its end is the blob known to be what its digest says.
		if _, err := io.Copy(io.Discard, rc); err != nil {
			return nil, fmt.Errorf("reading layer %s: %w", l.Descriptor.Digest, err)
		}
		if err := im.o.Store.PutLayer(l, ix); err != nil {
			return nil, fmt.Errorf("remembering layer %s: %w", l.DiffID, err)
		}
		return ix, nil
	})
}
