package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The most bytes a manifest or index, and a config, may have (SECURITY: oversized documents).
const (
	maxManifest = 8 << 20
	maxConfig   = 16 << 20
	maxLayers   = 1000
)

// Local is the images of a store by name. It is safe for concurrent use.
type Local struct{ store *store.Store }

// NewLocal returns the images of s.
func NewLocal(s *store.Store) *Local { return &Local{store: s} }

// Entry is one name in the local store.
type Entry struct {
	// Name is a normalised reference ("docker.io/library/app:v1"), or the digest of the manifest for an image without a name.
	Name       string
	Descriptor ocispec.Descriptor
}

// Put keeps an image under names (its digest, if there are none) and returns the names as they were written. Layers whose
// bytes the store does not hold are remembered with their Origin, to be fetched when they are needed.
func (lo *Local) Put(ctx context.Context, set Set, names []string) ([]string, error) {
	refs := make([]string, 0, len(names))
	for _, n := range names {
		r, err := Normalize(n)
		if err != nil {
			return nil, err
		}
		refs = append(refs, r)
	}
	if len(refs) == 0 {
		refs = append(refs, set.Descriptor.Digest.String())
	}
	for _, b := range set.Images {
		if err := lo.putOne(ctx, b); err != nil {
			return nil, err
		}
	}
	if set.Index != nil {
		if _, err := lo.store.PutBlob(ctx, set.Descriptor.MediaType, set.Index); err != nil {
			return nil, fmt.Errorf("keeping index %s: %w", set.Descriptor.Digest, err)
		}
	}
	for _, r := range refs {
		if err := lo.store.SetRef(r, set.Descriptor); err != nil {
			return nil, fmt.Errorf("naming %s: %w", r, err)
		}
	}
	return refs, nil
}

func (lo *Local) putOne(ctx context.Context, b Built) error {
	for _, l := range b.Layers {
		if err := lo.store.PutLayer(l, nil); err != nil {
			return fmt.Errorf("remembering layer %s: %w", l.DiffID, err)
		}
	}
	if _, err := lo.store.PutBlob(ctx, b.ConfigDescriptor.MediaType, b.Config); err != nil {
		return fmt.Errorf("keeping config %s: %w", b.ConfigDescriptor.Digest, err)
	}
	if _, err := lo.store.PutBlob(ctx, b.Descriptor.MediaType, b.Manifest); err != nil {
		return fmt.Errorf("keeping manifest %s: %w", b.Descriptor.Digest, err)
	}
	return nil
}

// List returns all names, sorted.
func (lo *Local) List() ([]Entry, error) {
	refs, err := lo.store.Refs()
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var out []Entry
	for n, d := range refs {
		out = append(out, Entry{Name: n, Descriptor: d})
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Get returns the image that ref names: a reference, or a digest of a manifest or config, whole or its first characters. An
// unknown one is an error for which errors.Is(err, fs.ErrNotExist) holds.
func (lo *Local) Get(ref string) (Set, error) {
	_, d, err := lo.find(ref)
	if err != nil {
		return Set{}, err
	}
	set, err := lo.read(d)
	if err != nil {
		return Set{}, fmt.Errorf("reading image %s: %w", ref, err)
	}
	return set, nil
}

// Remove takes a name away and returns the names removed: that one, or, given a digest, all names of the image. Content is
// left for the store's garbage collection.
func (lo *Local) Remove(ref string) ([]string, error) {
	names, _, err := lo.find(ref)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if err := lo.store.DeleteRef(n); err != nil {
			return nil, fmt.Errorf("removing name %s: %w", n, err)
		}
	}
	return names, nil
}

// find returns what ref names and the names it stands for. A name wins over the beginning of a digest.
func (lo *Local) find(ref string) ([]string, ocispec.Descriptor, error) {
	if name, err := Normalize(ref); err == nil {
		d, err := lo.store.Ref(name)
		if err == nil {
			return []string{name}, d, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, ocispec.Descriptor{}, fmt.Errorf("looking up image %s: %w", ref, err)
		}
	}
	hex := strings.TrimPrefix(ref, "sha256:")
	if !isHex(hex) {
		return nil, ocispec.Descriptor{}, fmt.Errorf("looking up image %s: %w", ref, fs.ErrNotExist)
	}
	entries, err := lo.List()
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	var names []string
	var found ocispec.Descriptor
	for _, e := range entries {
		if !lo.matches(e.Descriptor, hex) {
			continue
		}
		if len(names) > 0 && found.Digest != e.Descriptor.Digest {
			return nil, ocispec.Descriptor{}, fmt.Errorf("looking up image %s: it is the beginning of several digests", ref)
		}
		names, found = append(names, e.Name), e.Descriptor
	}
	if len(names) == 0 {
		return nil, ocispec.Descriptor{}, fmt.Errorf("looking up image %s: %w", ref, fs.ErrNotExist)
	}
	return names, found, nil
}

// matches reports whether hex is the beginning of the digest of a manifest or of its config.
func (lo *Local) matches(d ocispec.Descriptor, hex string) bool {
	if strings.HasPrefix(d.Digest.Encoded(), hex) {
		return true
	}
	data, err := lo.store.ReadBlob(d.Digest, maxManifest)
	if err != nil {
		return false
	}
	var m ocispec.Manifest
	if json.Unmarshal(data, &m) != nil || m.Config.Digest.Validate() != nil {
		return false
	}
	return strings.HasPrefix(m.Config.Digest.Encoded(), hex)
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// read loads an image from what its descriptor points to.
func (lo *Local) read(d ocispec.Descriptor) (Set, error) {
	data, err := lo.store.ReadBlob(d.Digest, maxManifest)
	if err != nil {
		return Set{}, fmt.Errorf("reading manifest %s: %w", d.Digest, err)
	}
	if d.MediaType != ocispec.MediaTypeImageIndex && d.MediaType != dockerIndex {
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
		if errors.Is(err, fs.ErrNotExist) || (md.Platform != nil && md.Platform.OS == "unknown") {
			continue // pulled for other platforms only; or an attestation, which is no image (BuildKit, docs/attestations)
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
		l := layer.Layer{DiffID: c.RootFS.DiffIDs[i], Descriptor: ld}
		if known, err := lo.store.Layer(l.DiffID); err == nil && known.Descriptor.Digest == ld.Digest {
			l.Origin = known.Origin
		}
		b.Layers = append(b.Layers, l)
	}
	return b, nil
}

// Normalize returns the full form of a name: "app" is "docker.io/library/app:latest". A digest is returned as it is.
func Normalize(name string) (string, error) {
	if _, err := digest.Parse(name); err == nil {
		return name, nil
	}
	r, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("reading image name %q: %w", name, err)
	}
	return reference.TagNameOnly(r).String(), nil
}
