package image

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TypeLayers is the only type of RootFS there is (OCI image-spec, config.md).
const TypeLayers = "layers"

// RootFS are the layers that an image's root filesystem is made of.
type RootFS struct {
	// Type is TypeLayers.
	Type string `json:"type"`
	// DiffIDs are the digests of the uncompressed layers, bottom first.
	DiffIDs []digest.Digest `json:"diff_ids,omitempty"`
}

// NewRootFS returns a root filesystem of no layers.
func NewRootFS() *RootFS { return &RootFS{Type: TypeLayers} }

// Append puts a layer on top.
func (r *RootFS) Append(id digest.Digest) { r.DiffIDs = append(r.DiffIDs, id) }

// Clone returns a copy that shares nothing with r.
func (r *RootFS) Clone() *RootFS {
	return &RootFS{Type: r.Type, DiffIDs: slices.Clone(r.DiffIDs)}
}

// ChainID identifies the stack of all layers (OCI image-spec, config.md, "Layer ChainID"); "" for no layers.
func (r *RootFS) ChainID() ChainID { return identity.ChainID(slices.Clone(r.DiffIDs)) }

// History is one step that made an image.
type History = ocispec.History

// NewHistory returns the history entry of a step made now. empty says that the step made no layer.
func NewHistory(author, comment, createdBy string, empty bool) History {
	now := time.Now().UTC()
	return History{Author: author, Created: &now, CreatedBy: createdBy, Comment: comment, EmptyLayer: empty}
}
