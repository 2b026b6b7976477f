package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types of schema 2 (distribution, manifest-v2-2.md).
const (
	dockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig    = "application/vnd.docker.container.image.v1+json"
	dockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip = dockerLayer + ".gzip"
	dockerLayerZstd = dockerLayer + ".zstd"
	dockerForeign   = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// Assemble writes the manifests of images, one for each platform, and an index if there are several.
func Assemble(images []Spec, o Options) (Set, error) {
	if len(images) == 0 {
		return Set{}, errors.New("assembling an image: no platform given")
	}
	if err := o.Annotations.check(images, o); err != nil {
		return Set{}, err
	}
	var set Set
	for _, s := range images {
		b, err := assembleOne(s, o)
		if err != nil {
			return Set{}, fmt.Errorf("assembling the image for %s: %w", platforms.FormatAll(s.platform()), err)
		}
		set.Images = append(set.Images, b)
	}
	if len(images) == 1 && !o.Index {
		set.Descriptor = set.Images[0].Descriptor
		return set, nil
	}
	return assembleIndex(set, o)
}

// platform is the normalised platform of the image (linux/arm64, not linux/arm64/v8).
func (s Spec) platform() ocispec.Platform {
	p := s.Platform
	if p.OS == "" && p.Architecture == "" {
		p = s.Config.Platform
	}
	return platforms.Normalize(p)
}

func assembleOne(s Spec, o Options) (Built, error) {
	var b Built
	b.Layers = append(b.Layers, s.Base...)
	for _, l := range s.Layers {
		b.Layers = append(b.Layers, l.Layer)
	}
	config, created, err := writeConfig(s, b.Layers, o)
	if err != nil {
		return Built{}, err
	}
	b.Config, b.Created = config, created
	err = writeManifest(&b, s.platform(), o)
	return b, err
}

// writeManifest completes an image of which config and layers are known.
func writeManifest(b *Built, p ocispec.Platform, o Options) error {
	b.ConfigDescriptor = describe(b.Config, pick(o.DockerMediaTypes, dockerConfig, ocispec.MediaTypeImageConfig))
	m := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   pick(o.DockerMediaTypes, dockerManifest, ocispec.MediaTypeImageManifest),
		Config:      b.ConfigDescriptor,
		Layers:      []ocispec.Descriptor{}, // "layers" is REQUIRED to be an array (manifest.md): null is not one
		Annotations: o.Annotations.at(LevelManifest, &p),
	}
	for i, l := range b.Layers {
		mt, err := layerMediaType(l.Descriptor.MediaType, o.DockerMediaTypes)
		if err != nil {
			return err
		}
		b.Layers[i].Descriptor.MediaType = mt
		d := l.Descriptor
		m.Layers = append(m.Layers, ocispec.Descriptor{
			MediaType: mt, Digest: d.Digest, Size: d.Size, URLs: d.URLs, Annotations: seekable(d.Annotations, o),
		})
	}
	var err error
	if b.Manifest, err = json.MarshalIndent(m, "", "  "); err != nil {
		return err
	}
	b.Descriptor = describe(b.Manifest, m.MediaType)
	b.Descriptor.Platform = &p
	b.Descriptor.Annotations = o.Annotations.at(LevelManifestDescriptor, &p)
	return nil
}

// seekable are those annotations of a layer without which its form is of no use. Others are about the image that it came with. Docker's manifests have
// none.
func seekable(all map[string]string, o Options) (kept map[string]string) {
	if o.DockerMediaTypes {
		return nil
	}
	for _, k := range layer.SeekableAnnotations() {
		if v, ok := all[k]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
	}
	return kept
}

func assembleIndex(set Set, o Options) (Set, error) {
	ix := ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   pick(o.DockerMediaTypes, dockerIndex, ocispec.MediaTypeImageIndex),
		Annotations: o.Annotations.at(LevelIndex, nil),
	}
	seen := map[string]bool{}
	for _, b := range set.Images {
		p := platforms.FormatAll(*b.Descriptor.Platform)
		if seen[p] {
			return Set{}, fmt.Errorf("assembling an index: platform %s is there twice", p)
		}
		seen[p] = true
		ix.Manifests = append(ix.Manifests, b.Descriptor)
	}
	var err error
	if set.Index, err = json.MarshalIndent(ix, "", "  "); err != nil {
		return Set{}, err
	}
	set.Descriptor = describe(set.Index, ix.MediaType)
	set.Descriptor.Annotations = o.Annotations.at(LevelIndexDescriptor, nil)
	return set, nil
}

// writeConfig returns the config's JSON and its time of creation. Keys of the top level are sorted, so that the order does
// not depend on the struct that the config went through (BuildKit patches a map of raw values, with the same effect).
func writeConfig(s Spec, layers []layer.Layer, o Options) ([]byte, time.Time, error) {
	c := s.Config
	if c.OS == "" {
		return nil, time.Time{}, errors.New("the image config has no os")
	}
	if c.Architecture == "" {
		return nil, time.Time{}, errors.New("the image config has no architecture")
	}
	history, err := writeHistory(s, o.Epoch)
	if err != nil {
		return nil, time.Time{}, err
	}
	c.History = history
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.DiffID)
	}
	c.Created = nil
	for _, h := range history {
		if h.Created != nil {
			c.Created = h.Created
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, time.Time{}, err
	}
	var fields map[string]json.RawMessage
	if o.Fields != nil {
		if fields, err = o.Fields(layers); err != nil {
			return nil, time.Time{}, err
		}
	}
	if data, err = sortKeys(data, fields); err != nil {
		return nil, time.Time{}, err
	}
	if c.Created == nil {
		return data, time.Time{}, nil
	}
	return data, *c.Created, nil
}

func describe(data []byte, mediaType string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func pick(docker bool, a, b string) string {
	if docker {
		return a
	}
	return b
}

// layerMediaType translates the media type of a layer between OCI's names and Docker's. A manifest must not mix them.
func layerMediaType(mt string, docker bool) (string, error) {
	pairs := [][2]string{
		{ocispec.MediaTypeImageLayer, dockerLayer},
		{ocispec.MediaTypeImageLayerGzip, dockerLayerGzip},
		{ocispec.MediaTypeImageLayerZstd, dockerLayerZstd},
		{ocispec.MediaTypeImageLayerNonDistributableGzip, dockerForeign}, //nolint:staticcheck // bases of Windows still have them
	}
	for _, p := range pairs {
		if mt != p[0] && mt != p[1] {
			continue
		}
		if !docker {
			return p[0], nil
		}
		if p[1] == dockerLayerZstd {
			return "", errors.New("zstd layers need OCI media types: compression=zstd conflicts with oci-mediatypes=false")
		}
		return p[1], nil
	}
	return "", fmt.Errorf("unknown media type of a layer: %q", mt)
}
