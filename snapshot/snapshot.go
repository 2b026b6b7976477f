// Package snapshot defines the layers of a root filesystem as a build sees them: a read-only stack of committed layers,
// and a writable layer on top that can be committed in turn.
//
// Vocabulary: a chain is the list of layers from the bottom up; its ChainID names the root filesystem they make
// (OCI image-spec, config.md). A snapshot is the directory in which one layer of a chain is unpacked. Snapshots are a cache, not
// durable state: they can always be made again from verified blobs.
package snapshot

import (
	"context"
	"io"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// Snapshotter makes root filesystems out of layers. Implementations are safe for concurrent use, also by several
// processes over one store.
type Snapshotter interface {
	// Name is the short name of the implementation: "overlay".
	Name() string
	// Open returns the root filesystem of chain (bottom first), unpacking what is not unpacked yet. An empty chain is scratch.
	Open(ctx context.Context, chain []layer.Layer) (ROLayer, error)
	// OpenFile returns the content of one regular file of one layer, the last of chain, by its path in that layer.
	OpenFile(ctx context.Context, chain []layer.Layer, name string) (io.ReadCloser, error)
}

// ROLayer is a read-only root filesystem: the top of a chain of committed layers.
type ROLayer interface {
	// Release drops the claim on the layer. It is idempotent.
	Release() error
	// NewRWLayer puts a writable layer on top.
	NewRWLayer() (RWLayer, error)
	// DiffID is the digest of the uncompressed tar of the top layer; of the empty tar for scratch.
	DiffID() digest.Digest
	// ContentStoreDigest is the digest by which a content store of containerd knows the top layer; "" where there is none, as here.
	ContentStoreDigest() digest.Digest
	// Chain is the layers of the root filesystem, bottom first. The caller must not change it.
	Chain() []layer.Layer
}

// RWLayer is a mounted, writable root filesystem.
type RWLayer interface {
	// Root is the directory at which the root filesystem is mounted.
	Root() string
	// Commit turns what was changed into a layer on top of the chain. The RWLayer can only be released afterwards.
	Commit() (ROLayer, error)
	// Release unmounts and drops what was not committed. It is idempotent.
	Release() error
}

// Guarded is implemented by writable root filesystems that can keep content out of the layer they become.
type Guarded interface {
	// Forbid makes Commit fail with a *layer.ForbiddenError, and keep nothing, where the layer would hold one of these byte sequences.
	Forbid(content [][]byte)
}

// Early is implemented by writable root filesystems that can go on before their layer is compressed.
type Early interface {
	// CommitEarly is Commit, but that the layer it returns may have no Descriptor yet and is not known to the store: rest waits for the blob and
	// returns the layer as it is in the end. rest must be called. When ctx ends it is an error.
	CommitEarly(ctx context.Context) (ro ROLayer, rest func() (layer.Layer, error), err error)
}

// Stoppable is implemented by writable root filesystems that can be told to give up while they make a layer, which takes long for large files.
type Stoppable interface {
	// CommitContext is Commit, but that it fails soon when ctx ends.
	CommitContext(ctx context.Context) (ROLayer, error)
}

// Owned is implemented by writable root filesystems whose files cannot have the owners, modes, devices and attributes that they are to have:
// the Table says what they have. It is for executor.Spec.Owners: what the executor leaves in it is what Commit puts into the layer.
type Owned interface {
	Owners() *fakeroot.Table
}

// OwnersOf returns the table of a root filesystem; nil for one whose files say for themselves.
func OwnersOf(rw RWLayer) *fakeroot.Table {
	if o, ok := rw.(Owned); ok {
		return o.Owners()
	}
	return nil
}
