package cache

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is what the cache needs of pkg/registry's Client.
type Registry interface {
	// Resolve returns the manifest or index of a reference, verified if it has a digest.
	Resolve(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error)
	// FetchSmall returns a verified blob of at most limit bytes.
	FetchSmall(ctx context.Context, repo string, d ocispec.Descriptor, limit int64) ([]byte, error)
	// FetchBlob returns the content of a blob, verified at its end.
	FetchBlob(ctx context.Context, repo string, d ocispec.Descriptor) (io.ReadCloser, error)
	// PushBlob makes sure that a repository has a blob, PushManifest puts a manifest under a reference.
	PushBlob(ctx context.Context, repo string, d ocispec.Descriptor, up registry.Upload) error
	PushManifest(ctx context.Context, ref, mediaType string, body []byte) error
}

// depot is where an artifact is: a repository or an OCI image layout.
type depot interface {
	// name is what trust in it is remembered by, origin the layer.Layer.Origin of what is there.
	name() string
	origin() string
	// resolve returns the manifest or index that the location names, manifest that with a digest.
	resolve(ctx context.Context) (ocispec.Descriptor, []byte, error)
	manifest(ctx context.Context, d digest.Digest) ([]byte, error)
	// small returns a whole verified blob of at most limit bytes, blob the content of a larger one, verified at its end.
	small(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error)
	blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	// put makes sure that a blob is there.
	put(ctx context.Context, d ocispec.Descriptor, up registry.Upload) error
	// publish names a manifest whose blobs are there.
	publish(ctx context.Context, m blob) error
}

// openDepot returns the depot of a location; create makes a layout that is not there.
func openDepot(l Location, reg Registry, create bool) (depot, error) {
	switch l.Type {
	case TypeRegistry:
		n, err := reference.ParseNormalizedNamed(l.Ref)
		if err != nil {
			return nil, err
		}
		return &repository{Registry: reg, ref: n.String(), repo: n.Name()}, nil
	case TypeLocal:
		return newLayout(l, create)
	}
	return nil, fmt.Errorf("a cache of type %q is no place of its own", l.Type)
}

// repository is a depot in a registry.
type repository struct {
	Registry
	ref, repo string
}

func (r *repository) name() string   { return r.repo }
func (r *repository) origin() string { return r.repo }

func (r *repository) resolve(ctx context.Context) (ocispec.Descriptor, []byte, error) {
	return r.Resolve(ctx, r.ref)
}

func (r *repository) manifest(ctx context.Context, d digest.Digest) ([]byte, error) {
	_, body, err := r.Resolve(ctx, r.repo+"@"+d.String())
	return body, err
}

func (r *repository) small(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	return r.FetchSmall(ctx, r.repo, d, limit)
}

func (r *repository) blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return r.FetchBlob(ctx, r.repo, d)
}

func (r *repository) put(ctx context.Context, d ocispec.Descriptor, up registry.Upload) error {
	return r.PushBlob(ctx, r.repo, d, up)
}

func (r *repository) publish(ctx context.Context, m blob) error {
	return r.PushManifest(ctx, r.ref, m.desc.MediaType, m.data)
}

// bytesUpload is a small blob to be pushed.
func bytesUpload(data []byte) registry.Upload {
	return registry.Upload{Open: func() (io.ReadCloser, error) { return seekCloser{bytes.NewReader(data)}, nil }}
}

// seekCloser can be sent again from any place.
type seekCloser struct{ *bytes.Reader }

func (seekCloser) Close() error { return nil }
