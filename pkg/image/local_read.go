package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memberImage is one image that a name leads to.
type memberImage struct {
	desc ocispec.Descriptor
	id   ID
}

// members returns the images that a manifest (one) or an index (those held) leads to. What is damaged is passed over.
func (lo *Local) members(d ocispec.Descriptor) []memberImage {
	if !isIndex(d.MediaType) {
		id, err := lo.configOf(d.Digest)
		if err != nil {
			return nil
		}
		return []memberImage{{d, id}}
	}
	data, err := lo.store.ReadBlob(d.Digest, maxManifest)
	var ix ocispec.Index
	if err != nil || json.Unmarshal(data, &ix) != nil {
		return nil
	}
	var out []memberImage
	for _, m := range ix.Manifests {
		if id, err := lo.configOf(m.Digest); err == nil && !isAttestation(m) {
			out = append(out, memberImage{m, id})
		}
	}
	return out
}

// isAttestation reports whether an entry of an index is no image (BuildKit, docs/attestations).
func isAttestation(m ocispec.Descriptor) bool { return m.Platform != nil && m.Platform.OS == "unknown" }

// configOf returns the digest of a manifest's config, which is the image ID.
func (lo *Local) configOf(manifest digest.Digest) (ID, error) {
	lo.mu.Lock()
	id, ok := lo.configs[manifest]
	lo.mu.Unlock()
	if ok {
		if _, held := lo.store.HasBlob(manifest); held {
			return ID(id), nil
		}
	}
	data, err := lo.store.ReadBlob(manifest, maxManifest)
	if err != nil {
		return "", err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return "", err
	}
	if err := m.Config.Digest.Validate(); err != nil {
		return "", err
	}
	lo.mu.Lock()
	defer lo.mu.Unlock()
	lo.configs[manifest] = m.Config.Digest
	return ID(m.Config.Digest), nil
}

// read loads an image from what its descriptor points to.
func (lo *Local) read(d ocispec.Descriptor) (Set, error) {
	data, err := lo.store.ReadBlob(d.Digest, maxManifest)
	if err != nil {
		return Set{}, fmt.Errorf("reading manifest %s: %w", d.Digest, err)
	}
	if !isIndex(d.MediaType) {
		b, err := lo.readOne(d, data)
		return Set{Images: []Built{b}, Descriptor: b.Descriptor}, err
	}
	var ix ocispec.Index
	if err := json.Unmarshal(data, &ix); err != nil {
		return Set{}, fmt.Errorf("reading index %s: %w", d.Digest, err)
	}
	set := Set{Index: data, Descriptor: d}
	for _, md := range ix.Manifests {
		data, err := lo.store.ReadBlob(md.Digest, maxManifest)
		if errors.Is(err, fs.ErrNotExist) || isAttestation(md) {
			continue // pulled for other platforms only; or no image
		}
		if err != nil {
			return Set{}, fmt.Errorf("reading manifest %s: %w", md.Digest, err)
		}
		b, err := lo.readOne(md, data)
		if err != nil {
			return Set{}, err
		}
		set.Images = append(set.Images, b)
	}
	if len(set.Images) == 0 {
		return Set{}, fmt.Errorf("reading index %s: none of its images is held", d.Digest)
	}
	return set, nil
}

func (lo *Local) readOne(d ocispec.Descriptor, manifest []byte) (Built, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return Built{}, fmt.Errorf("reading manifest %s: %w", d.Digest, err)
	}
	config, err := lo.store.ReadBlob(m.Config.Digest, maxConfig)
	if err != nil {
		return Built{}, fmt.Errorf("reading config %s: %w", m.Config.Digest, err)
	}
	b, err := newBuilt(d, manifest, m, config)
	if err != nil {
		return Built{}, err
	}
	for i, l := range b.Layers {
		if known, err := lo.store.Layer(l.DiffID); err == nil && known.Descriptor.Digest == l.Descriptor.Digest {
			b.Layers[i].Origin = known.Origin
		}
	}
	return b, nil
}

// newBuilt puts an image together from a manifest and a config that were read.
func newBuilt(d ocispec.Descriptor, manifest []byte, m ocispec.Manifest, config []byte) (Built, error) {
	var c ocispec.Image
	if err := json.Unmarshal(config, &c); err != nil {
		return Built{}, fmt.Errorf("reading config %s: %w", m.Config.Digest, err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) || len(m.Layers) > maxLayers {
		return Built{}, fmt.Errorf("reading manifest %s: %d layers, but the config names %d DiffIDs",
			d.Digest, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	if d.Platform == nil {
		p := c.Platform
		d.Platform = &p
	}
	b := Built{Config: config, ConfigDescriptor: m.Config, Manifest: manifest, Descriptor: d}
	if c.Created != nil {
		b.Created = *c.Created
	}
	for i, ld := range m.Layers {
		b.Layers = append(b.Layers, layer.Layer{DiffID: c.RootFS.DiffIDs[i], Descriptor: ld})
	}
	return b, nil
}
