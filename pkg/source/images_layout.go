package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layout is an open OCI image layout (image-spec, image-layout.md). Nothing in it leads out of it.
type layout struct {
	path string // of the directory
	want digest.Digest
	tag  string
	root *os.Root
}

// openLayout opens "PATH", "PATH:TAG" or "PATH@DIGEST".
func openLayout(s string) (*layout, error) {
	l := &layout{path: s}
	// A directory may have an @ in its name, a digest has no slash.
	if i := strings.LastIndex(s, "@"); i >= 0 && !strings.Contains(s[i:], "/") {
		l.path, l.want = s[:i], digest.Digest(s[i+1:])
		if _, err := pathOf(l.want); err != nil {
			return nil, fmt.Errorf("opening OCI layout %s: %w", s, err)
		}
	}
	if dir, base := filepath.Split(l.path); strings.Contains(base, ":") {
		base, l.tag, _ = strings.Cut(base, ":")
		l.path = dir + base
	}
	return l.open()
}

// open opens the directory of a layout.
func (l *layout) open() (*layout, error) {
	root, err := os.OpenRoot(l.path)
	if err != nil {
		return nil, fmt.Errorf("opening OCI layout: %w", err)
	}
	l.root = root
	data, err := l.file(ocispec.ImageLayoutFile, 1<<20)
	var head ocispec.ImageLayout
	if err == nil {
		err = json.Unmarshal(data, &head)
	}
	if err == nil && head.Version != ocispec.ImageLayoutVersion {
		err = fmt.Errorf("version %q is not supported", head.Version)
	}
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("opening OCI layout %s: %w", l.path, err)
	}
	return l, nil
}

func (l *layout) close() { l.root.Close() }

// openFile opens a regular file. A symlink could stand for a file outside that the layout's maker cannot read, a FIFO would wait for ever.
func (l *layout) openFile(name string) (*os.File, error) {
	before, err := l.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := l.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s changed while it was opened", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (l *layout) file(name string, limit int64) ([]byte, error) {
	f, err := l.openFile(name)
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

// read returns a small blob, verified.
func (l *layout) read(d digest.Digest, limit int64) ([]byte, error) {
	name, err := pathOf(d)
	if err != nil {
		return nil, err
	}
	data, err := l.file(name, limit)
	if err != nil {
		return nil, err
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, fmt.Errorf("the content of %s is not what its digest says", name)
	}
	return data, nil
}

// find returns the descriptor that a layout's tag or digest names; without either that of the tag "latest", or the only one there is.
func (l *layout) find() (ocispec.Descriptor, error) {
	fail := func(format string, args ...any) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, fmt.Errorf(format, args...)
	}
	data, err := l.file(ocispec.ImageIndexFile, registry.MaxManifest)
	if err != nil {
		return fail("%w", err)
	}
	var ix ocispec.Index
	if err := json.Unmarshal(data, &ix); err != nil {
		return fail("%s: %w", ocispec.ImageIndexFile, err)
	}
	if l.want != "" {
		// It may also be named only by another index.
		return ocispec.Descriptor{Digest: l.want}, nil
	}
	tag := l.tag
	if tag == "" {
		tag = "latest"
	}
	var tags []string
	for _, d := range ix.Manifests {
		name := d.Annotations[ocispec.AnnotationRefName]
		if name == tag || path.Base(name) == tag || strings.HasSuffix(name, ":"+tag) {
			return d, nil
		}
		tags = append(tags, name)
	}
	if l.tag == "" && len(ix.Manifests) == 1 {
		return ix.Manifests[0], nil
	}
	slices.Sort(tags)
	return fail("there is no tag %q (there are: %q)", tag, tags)
}

func (im *Images) resolveLayout(ctx context.Context, s string, platform ocispec.Platform) (plan.ResolvedImage, error) {
	l, err := openLayout(s)
	if err != nil {
		return plan.ResolvedImage{}, err
	}
	defer l.close()
	img, err := im.fromLayout(ctx, l, platform)
	if err != nil {
		return plan.ResolvedImage{}, fmt.Errorf("reading OCI layout %s: %w", s, err)
	}
	// The digest makes it certain that the layers are read from the same image, whatever happens to the tag.
	img.Ref = layoutScheme + l.path + "@" + img.Digest.String()
	return img, nil
}

func (im *Images) fromLayout(ctx context.Context, l *layout, platform ocispec.Platform) (plan.ResolvedImage, error) {
	d, err := l.find()
	if err != nil {
		return plan.ResolvedImage{}, err
	}
	if _, err := pathOf(d.Digest); err != nil {
		return plan.ResolvedImage{}, err
	}
	doc, err := im.manifest(ctx, place{layout: l}, d.Digest)
	if err != nil {
		return plan.ResolvedImage{}, err
	}
	return im.pick(ctx, doc, platform)
}

// importBlob copies a layer's blob from a layout into the store.
func (im *Images) importBlob(ctx context.Context, l *layout, desc ocispec.Descriptor) error {
	if _, ok := im.o.Store.HasBlob(desc.Digest); ok {
		return nil
	}
	name, err := pathOf(desc.Digest)
	if err != nil {
		return err
	}
	f, err := l.openFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the layout does not have %s: %w", desc.Digest, err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := im.o.Store.NewBlob(ctx)
	if err != nil {
		return err
	}
	defer w.Abort()
	n, err := io.Copy(w, io.LimitReader(f, desc.Size+1))
	if err == nil && n != desc.Size {
		err = fmt.Errorf("%s does not have the %d bytes its descriptor says", desc.Digest, desc.Size)
	}
	if err == nil {
		_, err = w.Commit(desc.Digest)
	}
	return err
}
