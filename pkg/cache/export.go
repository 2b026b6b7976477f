package cache

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/spill"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// parallelExports is how many blobs are on their way at once.
const parallelExports = 5

// Content is what there is to export.
type Content struct {
	// Steps are what the build used.
	Steps *Recorder
	// Image are the layers of the images that were built, Bases those of all images that the build looked at.
	Image, Bases []layer.Layer
}

// ExportOptions are what records are exported with.
type ExportOptions struct {
	Registry Registry
	Store    *store.Store
	// Imports are where the layers and indexes come from that are not here.
	Imports *Imports
	// MountFrom are repositories that have the image's layers by now.
	MountFrom []string
	// Progress is told how much of a blob there is; nil is allowed.
	Progress func(name string, n, total int64)
}

// Exported is what an export has done.
type Exported struct {
	Descriptor      ocispec.Descriptor
	Records, Layers int
}

// Export writes the records of a build to a location of TypeRegistry or TypeLocal, replacing what its name stood for. Layers go as they are: they
// are mounted from where they are known to be, or uploaded where the depot does not have them; the manifest goes last. With
// ModeMin only the steps are exported that the image consists of.
func Export(ctx context.Context, l Location, c Content, o ExportOptions) (Exported, error) {
	d, err := openDepot(l, o.Registry, true)
	if err != nil {
		return Exported{}, fmt.Errorf("exporting cache to %s: %w", l, err)
	}
	e := exporter{ExportOptions: o, depot: d, layers: map[digest.Digest]int{}}
	out, err := e.run(ctx, l, c)
	if err != nil {
		return Exported{}, fmt.Errorf("exporting cache to %s: %w", l, err)
	}
	return out, nil
}

// exporter is one export under way.
type exporter struct {
	ExportOptions
	depot  depot
	doc    artifactDocument
	layers map[digest.Digest]int // by DiffID, the number in doc.Layers
	// blobs are what has to be pushed, small and indexes their content where it is not a layer's, lent those that an import has,
	// whole the layers.
	blobs   []ocispec.Descriptor
	small   map[digest.Digest][]byte
	indexes map[digest.Digest]*spill.Bytes
	lent    map[digest.Digest]func(context.Context) ([]byte, error)
	whole   map[digest.Digest]layer.Layer
}

func (e *exporter) run(ctx context.Context, l Location, c Content) (Exported, error) {
	e.small, e.whole = map[digest.Digest][]byte{}, map[digest.Digest]layer.Layer{}
	e.indexes = map[digest.Digest]*spill.Bytes{}
	e.lent = map[digest.Digest]func(context.Context) ([]byte, error){}
	e.doc = artifactDocument{Version: artifactVersion, Layers: []layerDocument{}, Records: []recordDocument{}}
	used := chosen(c, l.Mode)
	for _, u := range used {
		n, err := e.layer(u.Record.Layer, true)
		if err != nil {
			return Exported{}, err
		}
		e.doc.Records = append(e.doc.Records, recordDocument{
			Key: u.Key.Digest(), Kind: u.Key.Kind(), Layer: n, Created: u.Record.Created.UTC(),
		})
	}
	bases := c.Bases
	if l.Mode != ModeMax {
		bases = c.Image
	}
	for _, b := range bases {
		if _, err := e.layer(b, false); err != nil {
			return Exported{}, err
		}
	}
	inputs, err := inputsBlob(used, c.Steps.memories)
	if err != nil {
		return Exported{}, err
	}
	e.doc.Inputs = &inputs.desc
	e.small[inputs.desc.Digest] = inputs.data
	e.blobs = append(e.blobs, inputs.desc)
	data, err := json.Marshal(e.doc)
	if err != nil {
		return Exported{}, err
	}
	config := newBlob(recordsType, data)
	m, err := manifestOf(ArtifactType, config.desc, e.blobs)
	if err != nil {
		return Exported{}, err
	}
	e.small[config.desc.Digest] = config.data
	if err := e.push(ctx, append(slices.Clone(e.blobs), config.desc)); err != nil {
		return Exported{}, err
	}
	if err := e.depot.publish(ctx, m); err != nil {
		return Exported{}, err
	}
	return Exported{Descriptor: m.desc, Records: len(e.doc.Records), Layers: len(e.whole)}, e.remember()
}

// chosen returns the steps that a mode exports, each key once, sorted: the bytes do not depend on the order in which steps ended.
func chosen(c Content, mode string) []Used {
	inImage := map[digest.Digest]bool{}
	for _, l := range c.Image {
		inImage[l.DiffID] = true
	}
	byKey := map[digest.Digest]Used{}
	for _, u := range c.Steps.Used() {
		if u.Done && (mode == ModeMax || inImage[u.Record.Layer.DiffID]) {
			byKey[u.Key.Digest()] = u
		}
	}
	out := make([]Used, 0, len(byKey))
	for _, u := range byKey {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b Used) int { return cmp.Compare(a.Key.Digest(), b.Key.Digest()) })
	return out
}

// layer adds a layer, with its index where that is known without fetching the layer, and returns its number. Of the layers of base images
// nothing but the index is exported: the image's own repository has the blobs.
func (e *exporter) layer(l layer.Layer, own bool) (int, error) {
	n, ok := e.layers[l.DiffID]
	if !ok {
		n = len(e.doc.Layers)
		e.layers[l.DiffID] = n
		desc, err := e.index(l.DiffID)
		if err != nil {
			return 0, err
		}
		e.doc.Layers = append(e.doc.Layers, layerDocument{DiffID: l.DiffID, Index: desc})
	}
	if own && e.doc.Layers[n].Blob == nil {
		d := plain(l.Descriptor)
		e.doc.Layers[n].Blob = &d
		if _, ok := e.whole[d.Digest]; !ok {
			e.whole[d.Digest] = l
			e.blobs = append(e.blobs, d)
		}
	}
	return n, nil
}

// index adds the index of a layer as a blob; nil if it is not known.
func (e *exporter) index(diffID digest.Digest) (*ocispec.Descriptor, error) {
	ix, err := e.Store.LayerIndex(diffID)
	if errors.Is(err, fs.ErrNotExist) {
		// What an import has is passed on as it is, without being looked at; it is fetched if the depot does not have it.
		d, fetch := e.Imports.indexBlob(diffID)
		if d != nil && len(d.Data) == 0 && e.lent[d.Digest] == nil && e.indexes[d.Digest] == nil {
			e.lent[d.Digest] = fetch
			e.blobs = append(e.blobs, *d)
		}
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	packed := &spill.Bytes{Temp: e.Store.TempFile}
	sum := digest.Canonical.Digester()
	err = compressTo(io.MultiWriter(packed, sum.Hash()), func(w io.Writer) error {
		_, err := ix.WriteTo(w)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compressing the index of layer %s: %w", diffID, err)
	}
	d := &ocispec.Descriptor{MediaType: indexType, Digest: sum.Digest(), Size: packed.Len()}
	if d.Size <= maxEmbedded {
		d.Data = make([]byte, d.Size)
		_, err := packed.ReadAt(d.Data, 0)
		return d, err
	}
	if e.indexes[d.Digest] == nil && e.lent[d.Digest] == nil {
		e.indexes[d.Digest] = packed
		e.blobs = append(e.blobs, *d)
	}
	return d, nil
}

// indexBlob is where an import has the index of a layer, or nil.
func (im *Imports) indexBlob(diffID digest.Digest) (d *ocispec.Descriptor, fetch func(context.Context) ([]byte, error)) {
	im.each(func(i *Import) bool {
		found, ok := i.indexes[diffID]
		if ok {
			found.MediaType, found.URLs, found.Annotations = indexType, nil, nil
			d, fetch = &found, func(ctx context.Context) ([]byte, error) { return i.small(ctx, found, maxIndexBlob) }
		}
		return ok
	})
	return d, fetch
}

// push sends the blobs.
func (e *exporter) push(ctx context.Context, blobs []ocispec.Descriptor) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelExports)
	for _, d := range blobs {
		up := bytesUpload(e.small[d.Digest])
		if ix := e.indexes[d.Digest]; ix != nil {
			up.Open = func() (io.ReadCloser, error) { return indexFile{io.NewSectionReader(ix, 0, d.Size)}, nil }
		}
		if fetch := e.lent[d.Digest]; fetch != nil {
			up.Open = func() (io.ReadCloser, error) {
				data, err := fetch(ctx)
				return seekCloser{bytes.NewReader(data)}, err
			}
		}
		if l, ok := e.whole[d.Digest]; ok {
			up = registry.Upload{
				Open:      func() (io.ReadCloser, error) { return e.Imports.Blob(ctx, l) },
				MountFrom: e.mountFrom(l),
			}
		}
		name := "exporting " + d.Digest.Encoded()[:12]
		if e.Progress != nil {
			up.Progress = func(n int64) { e.Progress(name, n, d.Size) }
		}
		g.Go(func() error {
			if err := e.depot.put(ctx, d, up); err != nil {
				return fmt.Errorf("blob %s: %w", d.Digest, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// indexFile can be sent again from any place.
type indexFile struct{ *io.SectionReader }

func (indexFile) Close() error { return nil }

// mountFrom are the repositories that may have a layer.
func (e *exporter) mountFrom(l layer.Layer) []string {
	from := slices.Clone(e.MountFrom)
	if known, err := e.Store.Layer(l.DiffID); err == nil && known.Origin != "" && known.Descriptor.Digest == l.Descriptor.Digest {
		from = append(from, known.Origin)
	}
	if l.Origin != "" {
		from = append(from, l.Origin)
	}
	slices.Sort(from)
	return slices.Compact(from)
}

// remember notes where layers that were made here can be had from, if that is a registry.
func (e *exporter) remember() error {
	r, ok := e.depot.(*repository)
	if !ok {
		return nil
	}
	for _, l := range e.whole {
		if known, err := e.Store.Layer(l.DiffID); err != nil || known.Origin != "" || known.Descriptor.Digest != l.Descriptor.Digest {
			continue
		}
		l.Origin = r.repo
		if err := e.Store.PutLayer(l, nil); err != nil {
			return fmt.Errorf("remembering where layer %s is: %w", l.DiffID, err)
		}
	}
	return nil
}

// sorted returns digests in order.
func sorted(ds []digest.Digest) []digest.Digest {
	ds = slices.Clone(ds)
	slices.Sort(ds)
	return ds
}
