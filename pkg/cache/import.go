package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/spill"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Import is the records of one --cache-from. Nothing of the layers that they name has been fetched.
type Import struct {
	depot   depot
	store   *store.Store
	records map[digest.Digest]Record
	indexes map[digest.Digest]ocispec.Descriptor
	inputs  *ocispec.Descriptor
	// size is how many bytes were fetched.
	size atomic.Int64

	once       sync.Once
	remembered []memory

	mu sync.Mutex
	// listed are the indexes that were asked for, each fetched once.
	listed map[digest.Digest]func() (*layer.Index, error)
}

// ImportOptions are what an import is opened with.
type ImportOptions struct {
	Registry Registry
	// Store keeps the small blobs that were fetched, by their digests.
	Store *store.Store
}

// ErrNoRecords is wrapped by the error for something that is there but brings no records.
var ErrNoRecords = errors.New("it has no cache records of cairn")

// OpenImport fetches the records of a location: of an exported cache, or of an image with an inline cache.
func OpenImport(ctx context.Context, l Location, o ImportOptions) (*Import, error) {
	d, err := openDepot(l, o.Registry, false)
	if err != nil {
		return nil, fmt.Errorf("importing cache from %s: %w", l, err)
	}
	im := &Import{depot: d, store: o.Store, records: map[digest.Digest]Record{}, indexes: map[digest.Digest]ocispec.Descriptor{},
		listed: map[digest.Digest]func() (*layer.Index, error){}}
	desc, body, err := d.resolve(ctx)
	if err == nil {
		im.size.Add(int64(len(body)))
		err = im.read(ctx, desc.MediaType, body)
	}
	if err != nil {
		return nil, fmt.Errorf("importing cache from %s: %w", l, err)
	}
	return im, nil
}

// Name is what trust in the import is remembered by: its repository, or its directory.
func (im *Import) Name() string { return im.depot.name() }

// Size is how many bytes were fetched so far.
func (im *Import) Size() int64 { return im.size.Load() }

// Len is the number of records.
func (im *Import) Len() int { return len(im.records) }

// read takes over what a manifest or an index names.
func (im *Import) read(ctx context.Context, mediaType string, body []byte) error {
	if registry.IsIndex(mediaType) {
		return im.readIndex(ctx, body)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return err
	}
	if m.Config.MediaType == recordsType {
		return im.readRecords(ctx, m.Config)
	}
	return im.readInline(ctx, m)
}

// readRecords takes over an exported cache.
func (im *Import) readRecords(ctx context.Context, d ocispec.Descriptor) error {
	data, err := im.small(ctx, d, maxRecordsBlob)
	if err != nil {
		return err
	}
	doc, err := parseArtifact(data)
	if err != nil {
		return fmt.Errorf("reading records %s: %w", d.Digest, err)
	}
	for _, l := range doc.Layers {
		if l.Index != nil {
			im.indexes[l.DiffID] = *l.Index
		}
	}
	for _, r := range doc.Records {
		l := doc.Layers[r.Layer]
		im.records[r.Key] = Record{
			Layer: layer.Layer{DiffID: l.DiffID, Descriptor: plain(*l.Blob), Origin: im.depot.origin()}, Created: r.Created,
		}
	}
	im.inputs = doc.Inputs
	return nil
}

// plain leaves of a stranger's descriptor what is needed: no URLs to fetch from, no data, no annotations.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// small returns a small blob: from the store if an earlier build fetched it. The store is told by digest alone, so what is kept there is no
// matter of trust.
func (im *Import) small(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	if len(d.Data) > 0 && digest.FromBytes(d.Data) == d.Digest {
		return d.Data, nil
	}
	if im.store != nil {
		if data, err := im.store.ReadBlob(d.Digest, limit); err == nil {
			return data, nil
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, store.ErrCorrupt) {
			return nil, err
		}
	}
	data, err := im.depot.small(ctx, plain(d), limit)
	if err != nil {
		return nil, err
	}
	im.size.Add(int64(len(data)))
	if im.store != nil {
		_, err = im.store.PutBlob(ctx, d.MediaType, data)
	}
	return data, err
}

// index returns what the import says is in a layer, and whether it says anything.
func (im *Import) index(ctx context.Context, diffID digest.Digest) (*layer.Index, bool, error) {
	d, ok := im.indexes[diffID]
	if !ok {
		return nil, false, nil
	}
	im.mu.Lock()
	get := im.listed[diffID]
	if get == nil {
		get = sync.OnceValues(func() (*layer.Index, error) { return im.fetchIndex(ctx, d) })
		im.listed[diffID] = get
	}
	im.mu.Unlock()
	ix, err := get()
	if err != nil {
		return nil, false, fmt.Errorf("fetching the index of layer %s from %s: %w", diffID, im.Name(), err)
	}
	return ix, true, nil
}

func (im *Import) fetchIndex(ctx context.Context, d ocispec.Descriptor) (*layer.Index, error) {
	data, err := im.small(ctx, d, maxIndexBlob)
	if err != nil {
		return nil, err
	}
	var ix spill.Bytes
	if im.store != nil {
		ix.Temp = im.store.TempFile
	}
	if err := decompressTo(&ix, data, maxUnpacked); err != nil {
		return nil, err
	}
	return layer.ReadIndex(&ix, ix.Len())
}
