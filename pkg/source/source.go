// Package source brings in what a build starts from: base images, build contexts, git repositories and URLs, each pinned to a
// digest and read as verified bytes.
package source

import (
	"context"
	"errors"
	"io"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var errTODO = errors.New("source: not written yet")

// Images resolves and reads images: by reference from registries or the local store, from OCI layouts, and docker-image:// and
// oci-layout:// contexts. It implements plan.ImageResolver; one reference is resolved once in a build.
type Images struct{}

// ResolveImage implements plan.ImageResolver.
func (im *Images) ResolveImage(ctx context.Context, ref string, platform ocispec.Platform) (plan.ResolvedImage, error) {
	return plan.ResolvedImage{}, errTODO
}

// Layers returns the layers of a resolved image, bottom first. Nothing of them is fetched.
func (im *Images) Layers(ctx context.Context, img plan.ResolvedImage) ([]layer.Layer, error) {
	return nil, errTODO
}

// Blob returns the compressed bytes of a layer, verified: from the store, or else from the layer's Origin, kept in the store on the way.
func (im *Images) Blob(ctx context.Context, l layer.Layer) (io.ReadCloser, error) { return nil, errTODO }

// Index returns the index of a layer: from the store, or else by reading its blob once (without unpacking it).
func (im *Images) Index(ctx context.Context, l layer.Layer) (*layer.Index, error) { return nil, errTODO }

// Context is an open build context: a tree of files with .dockerignore applied, that cannot be left through symlinks.
type Context struct {
	layer.Tree
	// Dockerfile is what was found of it in the context, when asked for.
	Dockerfile     []byte
	DockerfileName string
}

// Close removes what was made temporarily.
func (c *Context) Close() error { return nil }
