package cache

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutOrigin is what the Origin of a layer begins with whose blob is in an OCI image layout of this machine.
const layoutOrigin = "oci-layout://"

const blobsDir = "blobs/sha256"

// layout is a depot in an OCI image layout (image-spec, image-layout.md). Nothing in it leads out of it.
type layout struct {
	Location
	// root is nil where there is none yet.
	root *os.Root
}

// newLayout opens a layout.
func newLayout(l Location, create bool) (*layout, error) {
	if create {
		if err := os.MkdirAll(l.Dir, 0o755); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(l.Dir)
	if err != nil {
		return nil, err
	}
	if create {
		err = root.MkdirAll(blobsDir, 0o755)
	}
	return &layout{Location: l, root: root}, err
}

func (l *layout) name() string   { return layoutOrigin + l.Dir }
func (l *layout) origin() string { return layoutOrigin + l.Dir }

// read returns a regular file of at most limit bytes.
func (l *layout) read(name string, limit int64) ([]byte, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, err
}

// open opens a regular file: no link, and no FIFO that would be waited for.
func (l *layout) open(name string) (*os.File, error) {
	f, err := l.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(fmt.Errorf("%s is not a regular file", name), err)
	}
	return f, nil
}

func (l *layout) index() (ocispec.Index, error) {
	var ix ocispec.Index
	data, err := l.read(ocispec.ImageIndexFile, registry.MaxManifest)
	if err == nil {
		err = json.Unmarshal(data, &ix)
	}
	return ix, err
}

func (l *layout) resolve(ctx context.Context) (ocispec.Descriptor, []byte, error) {
	d := l.Digest
	if d == "" {
		ix, err := l.index()
		if err != nil {
			return ocispec.Descriptor{}, nil, err
		}
		i := slices.IndexFunc(ix.Manifests, l.tagged)
		if i < 0 {
			return ocispec.Descriptor{}, nil, fmt.Errorf("there is no tag %q: %w", l.Tag, fs.ErrNotExist)
		}
		d = ix.Manifests[i].Digest
	}
	body, err := l.manifest(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	mediaType, err := registry.CheckManifest("", body)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}, body, err
}

// tagged reports whether an entry of the index is the one that the location names.
func (l *layout) tagged(d ocispec.Descriptor) bool {
	return d.Annotations[ocispec.AnnotationRefName] == l.Tag
}

func (l *layout) manifest(_ context.Context, d digest.Digest) ([]byte, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	data, err := l.read(blobsDir+"/"+d.Encoded(), registry.MaxManifest)
	if err == nil && digest.FromBytes(data) != d {
		err = fmt.Errorf("the content of %s is not what its digest says", d)
	}
	return data, err
}

func (l *layout) small(_ context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	data, err := l.read(blobsDir+"/"+d.Digest.Encoded(), limit)
	if err == nil && (digest.FromBytes(data) != d.Digest || int64(len(data)) != d.Size) {
		err = fmt.Errorf("the content of %s is not what its digest says", d.Digest)
	}
	return data, err
}

func (l *layout) blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	f, err := l.open(blobsDir + "/" + d.Digest.Encoded())
	if err != nil {
		return nil, err
	}
	return &checkedFile{File: f, verifier: d.Digest.Verifier()}, nil
}

// checkedFile hashes what is read and compares at the end.
type checkedFile struct {
	*os.File
	verifier digest.Verifier
}

func (c *checkedFile) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
	_, _ = c.verifier.Write(p[:n]) // a hash takes everything
	if err == io.EOF && !c.verifier.Verified() {
		err = errors.New("its content is not what its digest says")
	}
	return n, err
}

func (l *layout) put(_ context.Context, d ocispec.Descriptor, up registry.Upload) error {
	name := blobsDir + "/" + d.Digest.Encoded()
	if fi, err := l.root.Lstat(name); err == nil && fi.Mode().IsRegular() && fi.Size() == d.Size {
		return nil
	}
	src, err := up.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	return l.replace(name, func(w io.Writer) error {
		v := d.Digest.Verifier()
		n, err := io.Copy(io.MultiWriter(w, v), src)
		if err == nil && (n != d.Size || !v.Verified()) {
			err = errors.New("the content is not what its digest says")
		}
		return err
	})
}

// replace writes a file beside its place and renames it.
func (l *layout) replace(name string, fill func(io.Writer) error) error {
	tmp := name + ".tmp-" + rand.Text()[:8]
	f, err := l.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = fill(f)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = l.root.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", name, err), l.root.Remove(tmp))
	}
	return nil
}

func (l *layout) publish(ctx context.Context, m blob) error {
	if err := l.put(ctx, m.desc, bytesUpload(m.data)); err != nil {
		return err
	}
	head, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := l.replace(ocispec.ImageLayoutFile, writeAll(head)); err != nil {
		return err
	}
	ix, err := l.index()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the index of %s: %w", l.Dir, err)
	}
	var old []ocispec.Descriptor
	kept := []ocispec.Descriptor{}
	for _, d := range ix.Manifests {
		if l.tagged(d) {
			old = append(old, d)
		} else {
			kept = append(kept, d)
		}
	}
	m.desc.ArtifactType = ""
	m.desc.Annotations = map[string]string{ocispec.AnnotationRefName: l.Tag}
	ix = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: append(kept, m.desc)}
	data, err := json.Marshal(ix)
	if err != nil {
		return err
	}
	if err := l.replace(ocispec.ImageIndexFile, writeAll(data)); err != nil {
		return err
	}
	l.retire(ctx, old, ix.Manifests)
	return nil
}

func writeAll(data []byte) func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(data); return err }
}

// retire removes the blobs that only the replaced manifests named, so that a directory that is exported to again and again does not grow for
// ever. Where a manifest that stays cannot be read, nothing is removed: it may name anything.
func (l *layout) retire(ctx context.Context, old, stays []ocispec.Descriptor) {
	keep := map[digest.Digest]bool{}
	for _, d := range stays {
		named, err := l.named(ctx, d)
		if err != nil {
			return
		}
		for _, b := range named {
			keep[b] = true
		}
	}
	for _, d := range old {
		named, err := l.named(ctx, d)
		if err != nil {
			continue
		}
		for _, b := range named {
			if !keep[b] {
				_ = l.root.Remove(blobsDir + "/" + b.Encoded()) // what is left takes room, no more
			}
		}
	}
}

// named returns the digests of a manifest and of what it names.
func (l *layout) named(ctx context.Context, d ocispec.Descriptor) ([]digest.Digest, error) {
	body, err := l.manifest(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil || !registry.IsManifest(d.MediaType) {
		return nil, errors.Join(fmt.Errorf("%s is no manifest", d.Digest), err)
	}
	out := []digest.Digest{d.Digest}
	for _, b := range append(m.Layers, m.Config) {
		if err := checkDigest(b.Digest); err != nil {
			return nil, err
		}
		out = append(out, b.Digest)
	}
	return out, nil
}
