// Package store is what cairn keeps on disk: blobs, what is known of layers, snapshot directories, records and names.
//
//	ROOT/lock                 flock: shared by everyone who works, exclusive for garbage collection
//	ROOT/blobs/sha256/HEX     content: compressed layers, configs, manifests; the name is the digest
//	ROOT/layers/HEX           what is known of the layer with that DiffID: its Layer value and Index
//	ROOT/snapshots/HEX        the directory of one unpacked layer, named by the ChainID it completes
//	ROOT/records/BUCKET/HEX   small JSON documents by key: cache records, stat indexes
//	ROOT/refs/NAME            a name ("localhost/app:v1", escaped) → the descriptor of a manifest or index
//	ROOT/tmp                  what is being written; removed by difference at the next start
//
// Invariants, as in docs/architecture.md: a ref names an existing manifest; a record names existing layers; a blob's name is
// its digest. Write order: blob, snapshot, record, ref; delete in reverse; read refs first. Everything is written by one protocol: a
// temporary file in the same file system → write → check length and digest → fsync → rename → fsync the directory.
package store

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is an open store. It is safe for concurrent use, also by several processes.
type Store struct{ root string }

var errTODO = errors.New("store: not written yet")

// Open opens or creates the store below root (mode 0700) and takes its shared lock. A root that is a symlink or belongs to
// somebody else is refused. What earlier processes left unfinished is removed when no one else has the store open.
func Open(root string) (*Store, error) { return nil, errTODO }

// Close gives up the lock.
func (s *Store) Close() error { return errTODO }

// Root is the store's directory.
func (s *Store) Root() string { return s.root }

// BlobWriter is a blob being written. It is hashed as it is written.
type BlobWriter struct{}

// NewBlob starts a blob.
func (s *Store) NewBlob(ctx context.Context) (*BlobWriter, error) { return nil, errTODO }

func (w *BlobWriter) Write(p []byte) (int, error) { return 0, errTODO }

// Commit makes the blob durable under its digest and returns digest and size; MediaType is left to the caller. When want is not empty
// and is not what was written, that is an error and nothing is kept.
func (w *BlobWriter) Commit(want digest.Digest) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errTODO
}

// Abort drops what was not committed. It may always be deferred.
func (w *BlobWriter) Abort() {}

// PutBlob keeps a small blob (a config, a manifest).
func (s *Store) PutBlob(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errTODO
}

// OpenBlob returns the content of a blob; fs.ErrNotExist if it is not held. Reading past the end of a blob whose content is not
// what its digest says is an error instead of io.EOF.
func (s *Store) OpenBlob(d digest.Digest) (io.ReadCloser, error) { return nil, errTODO }

// ReadBlob returns a whole small blob, verified, refusing one larger than limit bytes.
func (s *Store) ReadBlob(d digest.Digest, limit int64) ([]byte, error) { return nil, errTODO }

// BlobFile opens a blob's file for reading at random or linking; nothing is verified.
func (s *Store) BlobFile(d digest.Digest) (*os.File, error) { return nil, errTODO }

// HasBlob reports whether a blob is held and its size.
func (s *Store) HasBlob(d digest.Digest) (int64, bool) { return 0, false }

// PutLayer remembers a layer and its index under the layer's DiffID. A later call for the same DiffID may add an Origin or an Index.
func (s *Store) PutLayer(l layer.Layer, ix *layer.Index) error { return errTODO }

// Layer returns what is known of the layer with a DiffID; fs.ErrNotExist if nothing is.
func (s *Store) Layer(diffID digest.Digest) (layer.Layer, error) { return layer.Layer{}, errTODO }

// LayerIndex returns the index of the layer with a DiffID; fs.ErrNotExist if it is not known.
func (s *Store) LayerIndex(diffID digest.Digest) (*layer.Index, error) { return nil, errTODO }

// PutRecord keeps a small document in a bucket under a key of any bytes. It replaces an older one atomically.
func (s *Store) PutRecord(bucket, key string, data []byte) error { return errTODO }

// Record returns a document; fs.ErrNotExist if there is none.
func (s *Store) Record(bucket, key string) ([]byte, error) { return nil, errTODO }

// SetRef names a manifest or index; Ref, Refs and DeleteRef read, list (sorted by name) and remove names.
func (s *Store) SetRef(name string, d ocispec.Descriptor) error { return errTODO }

// Ref returns what a name stands for; fs.ErrNotExist if nothing.
func (s *Store) Ref(name string) (ocispec.Descriptor, error) { return ocispec.Descriptor{}, errTODO }

// Refs returns all names.
func (s *Store) Refs() (map[string]ocispec.Descriptor, error) { return nil, errTODO }

// DeleteRef removes a name.
func (s *Store) DeleteRef(name string) error { return errTODO }

// Snapshot returns the committed snapshot directory of a ChainID; fs.ErrNotExist if there is none (or it is of an earlier boot).
func (s *Store) Snapshot(chainID digest.Digest) (string, error) { return "", errTODO }

// NewSnapshot makes an empty temporary directory in the snapshots' file system, which CommitSnapshot renames into place. The
// first to commit a ChainID wins; the others' directories are dropped and the winner's path is returned.
func (s *Store) NewSnapshot() (string, error) { return "", errTODO }

// CommitSnapshot makes dir the snapshot of chainID and returns its final path.
func (s *Store) CommitSnapshot(chainID digest.Digest, dir string) (string, error) { return "", errTODO }

// TempDir makes a directory that belongs to this process, in the store's file system. It is removed after the process's end at
// the latest.
func (s *Store) TempDir(pattern string) (string, error) { return "", errTODO }

// CacheDir returns the lasting directory of a RUN cache mount by its key (any bytes; hashed), created if missing with created true.
func (s *Store) CacheDir(key string) (dir string, created bool, err error) { return "", false, errTODO }

// Lock takes an exclusive lock by name across processes, waiting until ctx ends; the returned function gives it back.
func (s *Store) Lock(ctx context.Context, name string) (func(), error) { return nil, errTODO }
