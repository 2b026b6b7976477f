package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// saving is one image, or index, that is being saved.
type saving struct {
	set   Set
	names []string
}

// Save implements Exporter.
func (e *exporter) Save(ctx context.Context, names []string, out io.Writer) (err error) {
	images, err := e.selected(names)
	if err != nil {
		return fmt.Errorf("saving images: %w", err)
	}
	s := &saver{
		exporter: e, tw: tar.NewWriter(out), written: map[string]int64{}, repositories: map[string]map[string]string{},
		index: ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex},
	}
	if s.dir, err = e.store.TempDir("save-"); err != nil {
		return fmt.Errorf("saving images: %w", err)
	}
	defer func() { err = errors.Join(err, e.store.RemoveTemp(s.dir)) }()
	if err := s.directories(); err != nil {
		return fmt.Errorf("saving images: %w", err)
	}
	for _, img := range images {
		if err := s.save(ctx, img); err != nil {
			return fmt.Errorf("saving image %s: %w", img.set.Descriptor.Digest, err)
		}
	}
	if err := s.finish(); err != nil {
		return fmt.Errorf("saving images: %w", err)
	}
	return nil
}

// selected finds the images that names stand for, each once, in the order they were given.
func (e *exporter) selected(names []string) ([]saving, error) {
	if len(names) == 0 {
		return nil, invalid{errors.New("no image is named")}
	}
	var out []saving
	add := func(d ocispec.Descriptor, name string) error {
		i := slices.IndexFunc(out, func(s saving) bool { return s.set.Descriptor.Digest == d.Digest })
		if i < 0 {
			set, err := e.read(d)
			if err != nil {
				return err
			}
			out, i = append(out, saving{set: set}), len(out)
		}
		if name != "" && !isCanonical(name) && !slices.Contains(out[i].names, name) {
			out[i].names = append(out[i].names, name)
		}
		return nil
	}
	for _, n := range names {
		all, err := e.namesOf(n)
		if err != nil {
			return nil, err
		}
		for _, entry := range all {
			if err := add(entry.Descriptor, entry.Name); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// namesOf returns what one argument of Save stands for: all tags of a repository, one name, or an image by its ID, without names.
func (e *exporter) namesOf(arg string) ([]Entry, error) {
	if r, err := reference.ParseNormalizedNamed(arg); err == nil && reference.IsNameOnly(r) && !isDigest(arg) {
		entries, err := e.List()
		if err != nil {
			return nil, err
		}
		entries = slices.DeleteFunc(entries, func(entry Entry) bool {
			tagged, err := reference.ParseNormalizedNamed(entry.Name)
			return err != nil || !entry.Named() || tagged.Name() != r.Name() || !isTagged(tagged)
		})
		if len(entries) > 0 {
			return entries, nil
		}
	}
	f, err := e.find(arg)
	if err != nil {
		return nil, err
	}
	if f.byID {
		return []Entry{{Descriptor: f.desc}}, nil
	}
	return []Entry{{Name: f.names[0], Descriptor: f.desc}}, nil
}

// saver writes one archive.
type saver struct {
	*exporter
	tw *tar.Writer
	// dir is for layers whose uncompressed length is not known before they are decompressed.
	dir string
	// written are the names of the files that are there, and their lengths.
	written      map[string]int64
	items        []manifestItem
	ids          []ID
	repositories map[string]map[string]string
	index        ocispec.Index
}

// save writes one image. An index without a platform being asked for goes as it is, so that its digests stay the same; Docker's
// part of the archive, which knows no indexes, then has the image of the platform nearest to this machine's.
func (s *saver) save(ctx context.Context, img saving) error {
	if img.set.Index != nil && s.Platform == nil {
		return s.saveIndex(ctx, img)
	}
	b, err := choose(img.set, s.Platform)
	if err != nil {
		return err
	}
	return s.saveOne(ctx, b, img.names)
}

// choose returns the image of a set for a platform, nil being this machine's or else the first.
func choose(set Set, want *ocispec.Platform) (Built, error) {
	p := platforms.DefaultSpec()
	if want != nil {
		p = *want
	}
	match := platforms.Only(p)
	best := -1
	for i, b := range set.Images {
		if b.Descriptor.Platform == nil || !match.Match(platforms.Normalize(*b.Descriptor.Platform)) {
			continue
		}
		if best < 0 || match.Less(*b.Descriptor.Platform, *set.Images[best].Descriptor.Platform) {
			best = i
		}
	}
	if best < 0 && want != nil {
		return Built{}, notFoundf("it has no image for %s", platforms.FormatAll(p))
	}
	return set.Images[max(best, 0)], nil
}

// Choose returns the image of a set that is for a platform, the nearest there is. A nil platform is that of this machine, or else
// the first image; for one that is given, having none is an error.
func (s Set) Choose(p *ocispec.Platform) (Built, error) { return choose(s, p) }

// errEmpty is for images that Docker's form of an archive has no place for.
var errEmpty = errors.New("empty export - not implemented")

// saveOne writes an image with uncompressed layers, and so with a manifest of its own.
func (s *saver) saveOne(ctx context.Context, b Built, names []string) error {
	if len(b.Layers) == 0 {
		return errEmpty
	}
	item := manifestItem{Config: blobName(b.ConfigDescriptor.Digest), RepoTags: familiarAll(names)}
	plain := Built{Config: b.Config, Created: b.Created}
	for _, l := range b.Layers {
		size, err := s.layer(ctx, l, b.Created)
		if err != nil {
			return fmt.Errorf("layer %s: %w", l.DiffID, err)
		}
		if err := s.source(&item, l); err != nil {
			return err
		}
		item.Layers = append(item.Layers, blobName(l.DiffID))
		l.Descriptor = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: l.DiffID, Size: size}
		plain.Layers = append(plain.Layers, l)
	}
	p := ocispec.Platform{}
	if b.Descriptor.Platform != nil {
		p = *b.Descriptor.Platform
	}
	if err := writeManifest(&plain, p, Options{}); err != nil {
		return err
	}
	err := errors.Join(s.file(item.Config, b.Config, b.Created), s.file(blobName(plain.Descriptor.Digest), plain.Manifest, b.Created))
	if err != nil {
		return err
	}
	s.add(item, plain.Descriptor, names)
	s.ids = append(s.ids, ID(b.ConfigDescriptor.Digest))
	return nil
}

// saveIndex writes an index with all that is held of it.
func (s *saver) saveIndex(ctx context.Context, img saving) error {
	for _, b := range img.set.Images {
		for _, l := range b.Layers {
			if err := s.compressed(ctx, l, b.Created); err != nil {
				return fmt.Errorf("layer %s: %w", l.DiffID, err)
			}
		}
		err := errors.Join(s.file(blobName(b.ConfigDescriptor.Digest), b.Config, b.Created),
			s.file(blobName(b.Descriptor.Digest), b.Manifest, b.Created))
		if err != nil {
			return err
		}
	}
	if err := s.file(blobName(img.set.Descriptor.Digest), img.set.Index, time.Time{}); err != nil {
		return err
	}
	b, err := choose(img.set, nil)
	if err != nil {
		return err
	}
	if len(b.Layers) == 0 {
		return errEmpty
	}
	item := manifestItem{Config: blobName(b.ConfigDescriptor.Digest), RepoTags: familiarAll(img.names)}
	for _, l := range b.Layers {
		item.Layers = append(item.Layers, blobName(l.Descriptor.Digest))
	}
	s.add(item, img.set.Descriptor, img.names)
	s.ids = append(s.ids, ID(b.ConfigDescriptor.Digest))
	return nil
}

// add enters an image into the tables of the archive.
func (s *saver) add(item manifestItem, d ocispec.Descriptor, names []string) {
	s.items = append(s.items, item)
	d.Annotations = nil
	if len(names) == 0 {
		s.index.Manifests = append(s.index.Manifests, d)
	}
	for _, n := range names {
		named := d
		named.Annotations = map[string]string{annotationImageName: n}
		if r, err := reference.ParseNormalizedNamed(n); err == nil {
			if t, ok := r.(reference.Tagged); ok {
				named.Annotations[ocispec.AnnotationRefName] = t.Tag()
				repo := reference.FamiliarName(r)
				if s.repositories[repo] == nil {
					s.repositories[repo] = map[string]string{}
				}
				s.repositories[repo][t.Tag()] = filepath.Base(item.Layers[len(item.Layers)-1])
			}
		}
		s.index.Manifests = append(s.index.Manifests, named)
	}
}

func familiarAll(names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, Familiar(n))
	}
	return out
}

// source enters where a layer comes from that may not be distributed.
func (s *saver) source(item *manifestItem, l layer.Layer) error {
	src := l.Descriptor
	if len(src.URLs) == 0 {
		data, err := s.store.Record(foreignBucket, l.DiffID.String())
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &src); err != nil {
			return err
		}
	}
	if item.LayerSources == nil {
		item.LayerSources = map[digest.Digest]ocispec.Descriptor{}
	}
	item.LayerSources[l.DiffID] = src
	return nil
}

// layer writes a layer uncompressed and returns its length.
func (s *saver) layer(ctx context.Context, l layer.Layer, created time.Time) (int64, error) {
	name := blobName(l.DiffID)
	if size, ok := s.written[name]; ok {
		return size, nil
	}
	blob, err := s.Blob(ctx, l)
	if err != nil {
		return 0, err
	}
	defer blob.Close()
	if l.Descriptor.Digest == l.DiffID {
		return l.Descriptor.Size, s.stream(name, l.Descriptor.Size, created, blob)
	}
	f, err := os.CreateTemp(s.dir, "layer-")
	if err != nil {
		return 0, err
	}
	defer func() { f.Close(); os.Remove(f.Name()) }()
	if _, err := layer.Recompress(ctx, blob, l, f, layer.Compression{Type: "uncompressed"}); err != nil {
		return 0, err
	}
	// Only at its end is the blob known to be what its digest says.
	if _, err := io.Copy(io.Discard, blob); err != nil {
		return 0, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	return size, s.stream(name, size, created, io.NewSectionReader(f, 0, size))
}

// compressed writes the blob of a layer as it is.
func (s *saver) compressed(ctx context.Context, l layer.Layer, created time.Time) error {
	name := blobName(l.Descriptor.Digest)
	if _, ok := s.written[name]; ok {
		return nil
	}
	blob, err := s.Blob(ctx, l)
	if err != nil {
		return err
	}
	defer blob.Close()
	return s.stream(name, l.Descriptor.Size, created, blob)
}

// stream writes a member. Content that is longer or shorter than its size is an error.
func (s *saver) stream(name string, size int64, created time.Time, content io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: stamp(created), Format: tar.FormatPAX}
	if err := s.tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(s.tw, content)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, not %d", name, n, size)
	}
	s.written[name] = size
	return err
}

// directories writes the entries of the directories. Who unpacks an archive that has none makes them as he likes, and skopeo so that only root may
// enter them.
func (s *saver) directories() error {
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: stamp(time.Time{}), Format: tar.FormatPAX}
		if err := s.tw.WriteHeader(h); err != nil {
			return err
		}
	}
	return nil
}

// stamp is the time of a member: that of the image's making, to the second, or the epoch.
func stamp(created time.Time) time.Time {
	if created.IsZero() || created.Before(time.Unix(0, 0)) {
		return time.Unix(0, 0)
	}
	return created.Truncate(time.Second)
}

// file writes a small member once.
func (s *saver) file(name string, data []byte, created time.Time) error {
	if _, ok := s.written[name]; ok {
		return nil
	}
	return s.stream(name, int64(len(data)), created, bytes.NewReader(data))
}

// finish writes the tables.
func (s *saver) finish() error {
	if err := s.linkItems(); err != nil {
		return err
	}
	tables := []struct {
		name  string
		value any
	}{
		{ocispec.ImageIndexFile, s.index},
		{manifestFile, s.items},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{repositoriesFile, s.repositories},
	}
	for _, t := range tables {
		if t.name == repositoriesFile && len(s.repositories) == 0 {
			continue
		}
		data, err := json.Marshal(t.value)
		if err != nil {
			return err
		}
		if err := s.file(t.name, data, time.Time{}); err != nil {
			return err
		}
	}
	return s.tw.Close()
}

// linkItems says of each image which other one of the archive it was made from: the nearest of its ancestors that is there.
func (s *saver) linkItems() error {
	b := (*localBackend)(s.Local)
	for i, id := range s.ids {
		for range MaxLayerDepth {
			parent, err := b.parentOf(id)
			if err != nil {
				return err
			}
			if parent == "" || slices.Contains(s.ids, parent) {
				s.items[i].Parent = parent
				break
			}
			id = parent
		}
	}
	return nil
}
