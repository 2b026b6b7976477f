package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store returns the images by ID. It is a view: what is named, built or removed by others is seen in it, and what is created in
// it has a manifest and can be named.
func (lo *Local) Store() (Store, error) { return NewImageStore(lo.Backend(), lo.Layers()) }

// Backend returns the image configs of the store as a StoreBackend. Set makes a manifest of layers that the store knows, and
// keeps the image without a name; Delete takes all names of an image away. Content stays until the store's garbage collection
// finds that nothing needs it.
func (lo *Local) Backend() StoreBackend { return (*localBackend)(lo) }

// Layers returns the layers of the store by ChainID.
func (lo *Local) Layers() *Layers {
	return &Layers{store: lo.store, chains: lo.chain, known: map[ChainID][]digest.Digest{}, held: map[ChainID]int{}}
}

// chain looks for the layers of a ChainID in all images.
func (lo *Local) chain(id ChainID) ([]digest.Digest, error) {
	var diffIDs []digest.Digest
	backend := lo.Backend()
	err := backend.Walk(func(d digest.Digest) error {
		config, err := backend.Get(d)
		var c ocispec.Image
		if err != nil || json.Unmarshal(config, &c) != nil {
			return nil
		}
		for i, chain := range identity.ChainIDs(slices.Clone(c.RootFS.DiffIDs)) {
			if chain == id {
				diffIDs = c.RootFS.DiffIDs[:i+1]
			}
		}
		return nil
	})
	if err == nil && diffIDs == nil {
		err = fmt.Errorf("layer %s: %w", id, ErrLayerDoesNotExist)
	}
	return diffIDs, err
}

// localBackend is a Local as its Store sees it.
type localBackend Local

func (b *localBackend) local() *Local { return (*Local)(b) }

// Walk implements StoreBackend.
func (b *localBackend) Walk(f DigestWalkFunc) error {
	entries, err := b.local().List()
	if err != nil {
		return err
	}
	seen := map[ID]bool{}
	for _, e := range entries {
		for _, id := range e.IDs {
			if seen[id] {
				continue
			}
			seen[id] = true
			if err := f(id.Digest()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Get implements StoreBackend.
func (b *localBackend) Get(id digest.Digest) ([]byte, error) {
	data, err := b.store.ReadBlob(id, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFoundf("getting %s: %w", id, err)
	}
	return data, err
}

// Set implements StoreBackend.
func (b *localBackend) Set(data []byte) (digest.Digest, error) {
	if len(data) == 0 {
		return "", invalid{errors.New("keeping an image config: it is empty")}
	}
	id := digest.FromBytes(data)
	if b.known(id) {
		return id, nil
	}
	img, err := NewFromJSON(data)
	if err != nil {
		return "", err
	}
	built := Built{Config: data}
	for _, diffID := range img.RootFS.DiffIDs {
		l, err := b.store.Layer(diffID)
		if err != nil {
			return "", fmt.Errorf("keeping image %s: layer %s: %w", id, diffID, err)
		}
		if l.Descriptor.MediaType == "" {
			l.Descriptor.MediaType = ocispec.MediaTypeImageLayerGzip
		}
		built.Layers = append(built.Layers, l)
	}
	if err := writeManifest(&built, img.Platform(), Options{}); err != nil {
		return "", fmt.Errorf("keeping image %s: %w", id, err)
	}
	_, err = b.local().keep(context.Background(), Set{Images: []Built{built}, Descriptor: built.Descriptor}, nil)
	return id, err
}

// known reports whether a name leads to an image.
func (b *localBackend) known(id digest.Digest) bool {
	errKnown := errors.New("known")
	return b.Walk(func(d digest.Digest) error {
		if d == id {
			return errKnown
		}
		return nil
	}) == errKnown
}

// Delete implements StoreBackend. An index that has the image goes as a whole.
func (b *localBackend) Delete(id digest.Digest) error {
	entries, err := b.local().List()
	if err != nil {
		return err
	}
	var names []Entry
	for _, e := range entries {
		if slices.Contains(e.IDs, ID(id)) {
			names = append(names, e)
		}
	}
	return b.local().remove(names)
}

// metadataBucket is the records of what is known of images besides their configs: by the config's digest and a key.
const metadataBucket = "images"

func metadataKey(id digest.Digest, key string) string { return id.String() + " " + key }

// SetMetadata implements StoreBackend.
func (b *localBackend) SetMetadata(id digest.Digest, key string, data []byte) error {
	if _, ok := b.store.HasBlob(id); !ok {
		return notFoundf("keeping metadata %s of %s: no such image", key, id)
	}
	return b.local().setMetadata(id, key, data)
}

func (lo *Local) setMetadata(id digest.Digest, key string, data []byte) error {
	if err := lo.store.PutRecord(metadataBucket, metadataKey(id, key), data); err != nil {
		return fmt.Errorf("keeping metadata %s of %s: %w", key, id, err)
	}
	return nil
}

// GetMetadata implements StoreBackend.
func (b *localBackend) GetMetadata(id digest.Digest, key string) ([]byte, error) {
	data, err := b.store.Record(metadataBucket, metadataKey(id, key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFoundf("getting metadata %s of %s: %w", key, id, err)
	}
	return data, err
}

// DeleteMetadata implements StoreBackend.
func (b *localBackend) DeleteMetadata(id digest.Digest, key string) error {
	if _, ok := b.store.HasBlob(id); !ok {
		return notFoundf("deleting metadata %s of %s: no such image", key, id)
	}
	return b.store.DeleteRecord(metadataBucket, metadataKey(id, key))
}

// details implements detailer, with what the last Walk has seen.
func (b *localBackend) details(id digest.Digest) *Details {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d, ok := b.manifests[id]; ok {
		return &Details{ManifestDescriptor: &d}
	}
	return nil
}

// touch notes that the images a descriptor leads to were named now.
func (lo *Local) touch(d ocispec.Descriptor) error {
	for _, m := range lo.members(d) {
		if err := lo.setMetadata(m.id.Digest(), lastUpdatedKey, []byte(time.Now().UTC().Format(time.RFC3339Nano))); err != nil {
			return err
		}
	}
	return nil
}
