package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxNesting is how deep an index may be in an index.
const maxNesting = 3

// layout loads those entries of an OCI layout's index.json that are picked, with their manifests and blobs as they are.
func (l *loader) layout(ctx context.Context, pick func(ocispec.Descriptor) bool) error {
	var ix ocispec.Index
	if err := l.archive.decode(ocispec.ImageIndexFile, maxManifest, &ix); err != nil {
		return err
	}
	for _, d := range ix.Manifests {
		if !pick(d) || isAttestation(d) {
			continue
		}
		names := layoutNames(d)
		d.Annotations = nil // they are about the place in this archive
		n, err := l.entry(ctx, &d, 0)
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		l.loaded += n
		if err := l.nameEntry(d, names); err != nil {
			return err
		}
	}
	return nil
}

// nameEntry gives an entry of a layout its names; one that has none is kept by its digest.
func (l *loader) nameEntry(d ocispec.Descriptor, names []string) error {
	for _, n := range names {
		l.named[n] = true
	}
	if len(names) == 0 {
		if err := l.store.SetRef(d.Digest.String(), d); err != nil {
			return err
		}
	}
	return l.name(d, l.idOf(d), names)
}

// layoutNames are the names of an entry of index.json: containerd's annotation, or the specification's where it is a whole name.
// A tag alone ("latest") names nothing.
func layoutNames(d ocispec.Descriptor) []string {
	name := d.Annotations[annotationImageName]
	if name == "" {
		name = d.Annotations[ocispec.AnnotationRefName]
		if !strings.ContainsAny(name, "/:") {
			return nil
		}
	}
	r, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil
	}
	if r = reference.TagNameOnly(r); !isTagged(r) {
		return nil
	}
	return []string{r.String()}
}

// entry loads what a descriptor points to and completes it. It returns how many images were loaded: those of other platforms than
// the one asked for are not.
func (l *loader) entry(ctx context.Context, d *ocispec.Descriptor, depth int) (int, error) {
	data, err := l.blob(d.Digest, maxManifest)
	if err != nil {
		return 0, err
	}
	if !isIndex(d.MediaType) {
		return l.manifest(ctx, d, data)
	}
	if depth == maxNesting {
		return 0, invalidf("index %s: indexes are nested deeper than %d", d.Digest, maxNesting)
	}
	var ix ocispec.Index
	if err := json.Unmarshal(data, &ix); err != nil {
		return 0, invalidf("reading index %s: %w", d.Digest, err)
	}
	n := 0
	for _, m := range ix.Manifests {
		if isAttestation(m) || m.Platform != nil && !l.wanted(*m.Platform) {
			continue
		}
		if _, err := l.archive.open(blobName(m.Digest)); errors.Is(err, fs.ErrNotExist) {
			continue // saved for other platforms only
		}
		more, err := l.entry(ctx, &m, depth+1)
		if err != nil {
			return 0, err
		}
		n += more
	}
	if n == 0 {
		return 0, nil
	}
	_, err = l.store.PutBlob(ctx, d.MediaType, data)
	return n, err
}

// blob reads a small blob and checks its digest.
func (l *loader) blob(d digest.Digest, limit int64) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, invalidf("digest %q: %w", d, err)
	}
	data, err := l.archive.read(blobName(d), limit)
	if err != nil {
		return nil, err
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, invalidf("blob %s: the content does not have this digest", d)
	}
	return data, nil
}

// manifest loads one image of a layout.
func (l *loader) manifest(ctx context.Context, d *ocispec.Descriptor, data []byte) (int, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return 0, invalidf("reading manifest %s: %w", d.Digest, err)
	}
	config, err := l.blob(m.Config.Digest, maxConfig)
	if err != nil {
		return 0, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	b, err := newBuilt(*d, data, m, config)
	if err != nil {
		return 0, invalid{err}
	}
	img, err := NewFromJSON(config)
	if err != nil {
		return 0, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if !l.wanted(img.Platform()) {
		return 0, nil
	}
	if err := CheckOS(img.OperatingSystem()); err != nil {
		return 0, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if len(b.Layers) > MaxLayerDepth {
		return 0, fmt.Errorf("manifest %s: %d layers: %w", d.Digest, len(b.Layers), ErrMaxDepthExceeded)
	}
	for _, of := range b.Layers {
		if err := l.layoutLayer(ctx, of); err != nil {
			return 0, err
		}
	}
	*d = b.Descriptor
	return 1, l.keepOne(ctx, b)
}

// layoutLayer makes sure that the store holds the blob of a layer, as it is in the layout.
func (l *loader) layoutLayer(ctx context.Context, of layer.Layer) error {
	d := of.Descriptor
	if known, err := l.store.Layer(of.DiffID); err == nil && known.Descriptor.Digest == d.Digest {
		if size, held := l.store.HasBlob(d.Digest); held && size == d.Size {
			return nil
		}
	}
	if err := d.Digest.Validate(); err != nil {
		return invalidf("layer %s: digest %q: %w", of.DiffID, d.Digest, err)
	}
	member, err := l.archive.open(blobName(d.Digest))
	if err != nil {
		return err
	}
	ix, err := layer.Unpack(ctx, &watched{SectionReader: member, r: l.reporter, diffID: of.DiffID}, of, "", nil, layer.Limits{Temp: l.store.TempFile})
	if err != nil {
		return invalid{err}
	}
	w, err := l.store.NewBlob(ctx)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.Copy(w, io.NewSectionReader(member, 0, member.Size())); err != nil {
		return fmt.Errorf("keeping layer %s: %w", d.Digest, err)
	}
	if _, err := w.Commit(d.Digest); err != nil {
		return fmt.Errorf("keeping layer %s: %w", d.Digest, err)
	}
	return l.store.PutLayer(of, ix)
}
