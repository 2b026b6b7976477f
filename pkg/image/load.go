package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// loader is one Load under way.
type loader struct {
	*exporter
	*reporter
	archive *archive
	// loaded counts the images that were for the right platform.
	loaded int
	// parents are what manifest.json says of who was made from whom, by ID.
	parents map[ID]ID
	// named are the names that an index was loaded under.
	named map[string]bool
}

// Load implements Exporter.
func (e *exporter) Load(ctx context.Context, in io.ReadCloser, out io.Writer, quiet bool) (err error) {
	a, err := openArchive(ctx, e.store, in)
	if err != nil {
		return fmt.Errorf("loading images: %w", err)
	}
	defer func() { err = errors.Join(err, a.close()) }()
	l := &loader{
		exporter: e, archive: a, reporter: &reporter{enc: json.NewEncoder(out), quiet: quiet}, parents: map[ID]ID{}, named: map[string]bool{},
	}
	if err := l.load(ctx); err != nil {
		return fmt.Errorf("loading images: %w", err)
	}
	return nil
}

func (l *loader) load(ctx context.Context) error {
	data, err := l.archive.read(manifestFile, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		if _, ierr := l.archive.open(ocispec.ImageIndexFile); ierr != nil {
			return invalidf("the archive has neither %s nor %s: it is no image archive", manifestFile, ocispec.ImageIndexFile)
		}
		err := l.layout(ctx, func(ocispec.Descriptor) bool { return true })
		return errors.Join(err, l.checkLoaded(err))
	}
	if err != nil {
		return err
	}
	var items []manifestItem
	if err := json.Unmarshal(data, &items); err != nil {
		return invalidf("reading %s: %w", manifestFile, err)
	}
	if items == nil {
		return invalidf("invalid %s: it is null, and not a list", manifestFile)
	}
	// Of an archive that is both, Docker's part is read, but for indexes, which it cannot express.
	if _, err := l.archive.open(ocispec.ImageIndexFile); err == nil {
		if err := l.layout(ctx, func(d ocispec.Descriptor) bool { return isIndex(d.MediaType) }); err != nil {
			return err
		}
	}
	for _, item := range items {
		if err := l.item(ctx, item); err != nil {
			return fmt.Errorf("image %s: %w", item.Config, err)
		}
	}
	if err := l.linkParents(); err != nil || len(items) == 0 {
		return err
	}
	return l.checkLoaded(nil)
}

// checkLoaded makes an archive without an image for the platform that is asked for an error.
func (l *loader) checkLoaded(before error) error {
	if before != nil || l.loaded > 0 || l.Platform == nil {
		return nil
	}
	return notFoundf("the archive has no image for %s", platforms.FormatAll(*l.Platform))
}

// wanted reports whether an image is for the platform that is asked for.
func (l *loader) wanted(p ocispec.Platform) bool {
	return l.Platform == nil || platforms.Only(*l.Platform).Match(platforms.Normalize(p))
}

// item loads one image of manifest.json.
func (l *loader) item(ctx context.Context, item manifestItem) error {
	tags, err := tagsOf(item.RepoTags)
	if err != nil {
		return err
	}
	if len(tags) > 0 && !slices.ContainsFunc(tags, func(n string) bool { return !l.named[n] }) {
		return nil // came with its index
	}
	config, err := l.archive.read(item.Config, maxConfig)
	if err != nil {
		return err
	}
	img, err := NewFromJSON(config)
	if err != nil {
		return err
	}
	if !l.wanted(img.Platform()) {
		return nil
	}
	if err := CheckOS(img.OperatingSystem()); err != nil {
		return err
	}
	if len(img.RootFS.DiffIDs) != len(item.Layers) {
		return invalidf("invalid manifest: it names %d layers, the config %d DiffIDs", len(item.Layers), len(img.RootFS.DiffIDs))
	}
	if len(item.Layers) > MaxLayerDepth {
		return fmt.Errorf("%d layers: %w", len(item.Layers), ErrMaxDepthExceeded)
	}
	b := Built{Config: config}
	for i, diffID := range img.RootFS.DiffIDs {
		known, err := l.layer(ctx, diffID, item.Layers[i])
		if err != nil {
			return err
		}
		if err := l.foreign(diffID, item.LayerSources); err != nil {
			return err
		}
		b.Layers = append(b.Layers, known)
	}
	d, err := l.keepBuilt(ctx, b, img)
	if err != nil {
		return err
	}
	l.loaded++
	l.parents[img.ID()] = item.Parent
	return l.name(d, img.ID(), tags)
}

// tagsOf reads the names of an image, which have to have tags.
func tagsOf(names []string) ([]string, error) {
	var out []string
	for _, n := range names {
		r, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return nil, invalidf("invalid tag %q: %w", n, err)
		}
		if !isTagged(r) {
			return nil, invalidf("invalid tag %q", n)
		}
		out = append(out, r.String())
	}
	return out, nil
}

// foreign remembers where a layer comes from that may not be distributed.
func (l *loader) foreign(diffID digest.Digest, sources map[digest.Digest]ocispec.Descriptor) error {
	src, ok := sources[diffID]
	if !ok || len(src.URLs) == 0 || src.Digest.Validate() != nil {
		return nil
	}
	data, err := json.Marshal(src)
	if err != nil {
		return err
	}
	return l.store.PutRecord(foreignBucket, diffID.String(), data)
}

// keepBuilt keeps an image of which config and layers are held, without a name yet. One that is there keeps its manifest.
func (l *loader) keepBuilt(ctx context.Context, b Built, img *Image) (ocispec.Descriptor, error) {
	have, err := l.entriesWith(img.ID())
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, e := range have {
		if e.ID() == img.ID() {
			return e.Descriptor, nil
		}
	}
	if err := writeManifest(&b, img.Platform(), Options{}); err != nil {
		return ocispec.Descriptor{}, err
	}
	_, err = l.keep(ctx, Set{Images: []Built{b}, Descriptor: b.Descriptor}, nil)
	return b.Descriptor, err
}

// layer makes sure that the store has a layer, and that the layer is what its DiffID says.
func (l *loader) layer(ctx context.Context, diffID digest.Digest, name string) (layer.Layer, error) {
	if known, err := l.store.Layer(diffID); err == nil {
		if size, held := l.store.HasBlob(known.Descriptor.Digest); held && size == known.Descriptor.Size {
			return known, nil
		}
	}
	member, err := l.archive.open(name)
	if err != nil {
		return layer.Layer{}, err
	}
	made := layer.Layer{DiffID: diffID}
	ix, err := layer.Unpack(ctx, &watched{SectionReader: member, r: l.reporter, diffID: diffID}, made, "", nil, layer.Limits{Temp: l.store.TempFile})
	if err != nil {
		return layer.Layer{}, invalid{err}
	}
	if made.Descriptor, err = l.compress(ctx, member, made); err != nil {
		return layer.Layer{}, err
	}
	return made, l.store.PutLayer(made, ix)
}

// compress keeps the blob of a layer: as it is if it is compressed in a way that registries know, else compressed like a layer
// built here.
func (l *loader) compress(ctx context.Context, member *io.SectionReader, of layer.Layer) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, fmt.Errorf("keeping layer %s: %w", of.DiffID, err)
	}
	dec, kind, err := layer.Decompress(io.NewSectionReader(member, 0, member.Size()))
	if err != nil {
		return fail(err)
	}
	dec.Close()
	w, err := l.store.NewBlob(ctx)
	if err != nil {
		return fail(err)
	}
	defer w.Abort()
	mediaType := map[string]string{"gzip": ocispec.MediaTypeImageLayerGzip, "zstd": ocispec.MediaTypeImageLayerZstd}[kind]
	raw := io.NewSectionReader(member, 0, member.Size())
	if mediaType != "" {
		_, err = io.Copy(w, raw)
	} else {
		var made layer.Layer
		made, err = layer.Recompress(ctx, raw, of, w, layer.Compression{})
		mediaType = made.Descriptor.MediaType
	}
	if err != nil {
		return fail(err)
	}
	d, err := w.Commit("")
	if err != nil {
		return fail(err)
	}
	d.MediaType = mediaType
	return d, nil
}

// name gives a loaded image its names, and says so. An image that loses its last name by it stays in the store without one.
func (l *loader) name(d ocispec.Descriptor, id ID, names []string) error {
	for _, n := range names {
		if err := l.rename(n, d); err != nil {
			return err
		}
		if err := l.say("Loaded image: %s", Familiar(n)); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		if err := l.dropNameless(d); err != nil {
			return err
		}
	} else if err := l.say("Loaded image ID: %s", id); err != nil {
		return err
	}
	return l.touch(d)
}

// rename gives a loaded image a name, and says what had it before.
func (l *loader) rename(name string, d ocispec.Descriptor) error {
	lost, err := l.take(name, d, true)
	if err != nil || lost == "" {
		return err
	}
	return l.say("The image %s already exists, renaming the old one with ID %s to empty string", Familiar(name), lost)
}

// linkParents notes who was made from whom where the configs bear that out.
func (l *loader) linkParents() error {
	st, err := l.Store()
	if err != nil {
		return err
	}
	for id, parent := range l.parents {
		if parent == "" {
			continue
		}
		img, err := st.Get(id)
		if err != nil {
			return err
		}
		from, err := st.Get(parent)
		if err != nil || !validParent(img, from) {
			continue
		}
		if err := st.SetParent(id, parent); err != nil {
			return err
		}
	}
	return nil
}

// validParent reports whether an image can have been made from another one by one step.
func validParent(img, parent *Image) bool {
	n := len(parent.History)
	if len(img.History) == 0 && n == 0 {
		return true
	}
	if len(img.History) != n+1 || len(parent.RootFS.DiffIDs) > len(img.RootFS.DiffIDs) ||
		!slices.Equal(parent.RootFS.DiffIDs, img.RootFS.DiffIDs[:len(parent.RootFS.DiffIDs)]) {
		return false
	}
	was, werr := json.Marshal(parent.History)
	is, ierr := json.Marshal(img.History[:n])
	return werr == nil && ierr == nil && bytes.Equal(was, is)
}
