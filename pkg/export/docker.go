package export

import (
	"context"
	"fmt"
	"io"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// writeDocker writes what docker load and podman load take: a config, the layers in their compressed form and a manifest.json.
func (e *exporter) writeDocker(ctx context.Context, w io.Writer, b image.Built, names []string) error {
	images := map[name.Reference]v1.Image{}
	add := func(ref name.Reference) error {
		// An image of its own for each name: of several names of one image the tarball package writes the list in random order.
		img, err := partial.CompressedToImage(&dockerImage{Built: b, ctx: ctx, e: e})
		images[ref] = img
		return err
	}
	if len(names) == 0 {
		ref, err := name.NewDigest("unnamed@" + b.Descriptor.Digest.String())
		if err != nil {
			return err
		}
		if err := add(ref); err != nil {
			return err
		}
	}
	for _, n := range names {
		r, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return fmt.Errorf("reading image name %q: %w", n, err)
		}
		ref, err := name.NewTag(reference.FamiliarString(reference.TagNameOnly(r)))
		if err != nil {
			return fmt.Errorf("reading image name %q: %w", n, err)
		}
		if err := add(ref); err != nil {
			return err
		}
	}
	return tarball.MultiRefWrite(images, w)
}

// dockerImage shows an image to the tarball package. Its ctx is that of the one call it lives for: the interface has no
// place for it.
type dockerImage struct {
	image.Built
	ctx context.Context //nolint:containedctx // see above
	e   *exporter
}

func (d *dockerImage) RawConfigFile() ([]byte, error) { return d.Config, nil }
func (d *dockerImage) RawManifest() ([]byte, error)   { return d.Manifest, nil }
func (d *dockerImage) MediaType() (types.MediaType, error) {
	return types.MediaType(d.Descriptor.MediaType), nil
}

func (d *dockerImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range d.Layers {
		if l.Descriptor.Digest.String() == h.String() {
			return &dockerLayer{l, h, d}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", h)
}

type dockerLayer struct {
	layer.Layer
	hash  v1.Hash
	image *dockerImage
}

func (l *dockerLayer) Digest() (v1.Hash, error) { return l.hash, nil }
func (l *dockerLayer) Size() (int64, error)     { return l.Descriptor.Size, nil }
func (l *dockerLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.Descriptor.MediaType), nil
}

func (l *dockerLayer) Compressed() (io.ReadCloser, error) {
	r, err := l.image.e.Blob(l.image.ctx, l.Layer)
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", l.Descriptor.Digest, err)
	}
	d := l.Descriptor.Digest
	c := &counter{ctx: l.image.ctx, r: r, vertex: l.image.e.vertex, name: "writing " + shortDigest(d), total: l.Descriptor.Size}
	return struct {
		io.Reader
		io.Closer
	}{c, r}, nil
}
