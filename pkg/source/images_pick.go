package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxLayers bounds the layers of an image, maxDepth how deep indexes may be nested.
	maxLayers = 1000
	maxDepth  = 4
)

var errNoMatch = errors.New("there is no image for the platform")

// pick finds the image for a platform in what a reference names, and reads its config.
func (im *Images) pick(ctx context.Context, doc document, platform ocispec.Platform) (plan.ResolvedImage, error) {
	if !registry.IsIndex(doc.desc.MediaType) {
		_, img, err := im.image(ctx, doc)
		return img, err
	}
	found, err := im.search(ctx, doc, platform, maxDepth)
	if err != nil {
		return plan.ResolvedImage{}, err
	}
	_, img, err := im.image(ctx, found)
	if err != nil {
		return plan.ResolvedImage{}, err
	}
	return img, nil
}

// search chooses from an index the manifest whose platform fits best; of equals the first. Entries that do not say their platform
// are asked for it; those for "unknown" are attestations, which are no images.
func (im *Images) search(ctx context.Context, doc document, platform ocispec.Platform, depth int) (document, error) {
	var ix ocispec.Index
	if err := json.Unmarshal(doc.body, &ix); err != nil {
		return document{}, fmt.Errorf("reading index %s: %w", doc.desc.Digest, err)
	}
	fits := platforms.Only(platform)
	type candidate struct {
		platform ocispec.Platform
		desc     ocispec.Descriptor
	}
	var candidates []candidate
	var others []string
	var nested []ocispec.Descriptor
	for _, d := range ix.Manifests {
		if registry.IsIndex(d.MediaType) {
			nested = append(nested, d)
			continue
		}
		if !registry.IsManifest(d.MediaType) {
			continue
		}
		if d.Platform == nil || d.Platform.OS == "" && d.Platform.Architecture == "" {
			p, ok, err := im.askPlatform(ctx, doc.from, d)
			if err != nil {
				return document{}, err
			}
			if !ok {
				continue
			}
			d.Platform = &p
		}
		p := platforms.Normalize(*d.Platform)
		switch {
		case p.OS == "unknown":
		case fits.Match(p):
			candidates = append(candidates, candidate{p, d})
		default:
			others = append(others, platforms.FormatAll(p))
		}
	}
	if len(candidates) > 0 {
		slices.SortStableFunc(candidates, func(a, b candidate) int {
			switch {
			case fits.Less(a.platform, b.platform):
				return -1
			case fits.Less(b.platform, a.platform):
				return 1
			}
			return 0
		})
		return im.child(ctx, doc.from, candidates[0].desc)
	}
	for _, d := range nested {
		if depth == 0 {
			return document{}, fmt.Errorf("reading index %s: indexes are nested too deeply", doc.desc.Digest)
		}
		child, err := im.child(ctx, doc.from, d)
		if err != nil {
			return document{}, err
		}
		found, err := im.search(ctx, child, platform, depth-1)
		if err == nil || !errors.Is(err, errNoMatch) {
			return found, err
		}
	}
	return document{}, noMatch(platform, others)
}

func noMatch(platform ocispec.Platform, others []string) error {
	slices.Sort(others)
	others = slices.Compact(others)
	has := "none"
	if len(others) > 12 {
		has = strings.Join(others[:12], ", ") + ", …"
	} else if len(others) > 0 {
		has = strings.Join(others, ", ")
	}
	return fmt.Errorf("%w %s (there are: %s)", errNoMatch, platforms.FormatAll(platform), has)
}

// child fetches what an index names.
func (im *Images) child(ctx context.Context, from place, d ocispec.Descriptor) (document, error) {
	if _, err := pathOf(d.Digest); err != nil {
		return document{}, err
	}
	doc, err := im.manifest(ctx, from, d.Digest)
	if err != nil {
		return document{}, err
	}
	if doc.desc.MediaType != d.MediaType {
		return document{}, fmt.Errorf("reading manifest %s: it is %s, its index says %s", d.Digest, doc.desc.MediaType, d.MediaType)
	}
	return doc, nil
}

// askPlatform reads the platform of an image from its config; false if it is no image.
func (im *Images) askPlatform(ctx context.Context, from place, d ocispec.Descriptor) (ocispec.Platform, bool, error) {
	doc, err := im.child(ctx, from, d)
	if err != nil {
		return ocispec.Platform{}, false, err
	}
	m, err := parseManifest(doc.body)
	if err != nil || !isConfig(m.Config.MediaType) {
		return ocispec.Platform{}, false, nil
	}
	_, img, err := im.image(ctx, doc)
	return img.Config.Platform, err == nil, err
}

// image reads the manifest and config of one image.
func (im *Images) image(ctx context.Context, doc document) (ocispec.Manifest, plan.ResolvedImage, error) {
	fail := func(err error) (ocispec.Manifest, plan.ResolvedImage, error) {
		return ocispec.Manifest{}, plan.ResolvedImage{}, fmt.Errorf("reading manifest %s: %w", doc.desc.Digest, err)
	}
	if registry.IsIndex(doc.desc.MediaType) {
		return fail(errors.New("it is an index where an image is wanted"))
	}
	m, err := parseManifest(doc.body)
	if err != nil {
		return fail(err)
	}
	if !isConfig(m.Config.MediaType) {
		return fail(fmt.Errorf("it is no container image: its config is %q", m.Config.MediaType))
	}
	data, err := im.config(ctx, doc.from, m.Config)
	if err != nil {
		return ocispec.Manifest{}, plan.ResolvedImage{}, err
	}
	img := plan.ResolvedImage{Digest: doc.desc.Digest}
	if img.Config, err = parseConfig(data, len(m.Layers)); err != nil {
		return fail(fmt.Errorf("reading config %s: %w", m.Config.Digest, err))
	}
	return m, img, nil
}

// parseManifest reads a manifest and checks what is in its descriptors, before any of it becomes a path or a request.
func parseManifest(body []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return m, err
	}
	if len(m.Layers) > maxLayers {
		return m, fmt.Errorf("it has %d layers, more than %d", len(m.Layers), maxLayers)
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if _, err := pathOf(d.Digest); err != nil {
			return m, err
		}
		if d.Size < 0 {
			return m, fmt.Errorf("%s has the size %d", d.Digest, d.Size)
		}
	}
	for _, d := range m.Layers {
		if !isLayer(d.MediaType) {
			return m, fmt.Errorf("layer %s has the media type %q, which is not supported", d.Digest, d.MediaType)
		}
	}
	return m, nil
}

func parseConfig(data []byte, layers int) (dockerspec.DockerOCIImage, error) {
	var c dockerspec.DockerOCIImage
	if err := json.Unmarshal(data, &c); err != nil {
		return c, err
	}
	if len(c.RootFS.DiffIDs) != layers {
		return c, fmt.Errorf("it has %d DiffIDs for %d layers", len(c.RootFS.DiffIDs), layers)
	}
	for _, id := range c.RootFS.DiffIDs {
		if _, err := pathOf(id); err != nil {
			return c, err
		}
	}
	return c, nil
}

func isConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == dockerspec.DockerOCIImageMediaType
}

// isLayer knows the layers of OCI and Docker, also those that may not be distributed: a registry may have them all the same, and if it does not that
// is an error then. The URLs such a layer carries are never used.
func isLayer(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return true
	}
	return false
}

// pathOf is the path of a blob in a layout (OCI image-spec, image-layout.md), and the check of a digest.
func pathOf(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", string(d), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", fmt.Errorf("digest %s: algorithm %s is not supported", d, a)
	}
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded(), nil
}
