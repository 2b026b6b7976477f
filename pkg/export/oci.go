package export

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
	"slices"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationImageName is where containerd, and so ctr and nerdctl, look for the whole name; the reference name of the
// specification is the tag alone.
const annotationImageName = "io.containerd.image.name"

// maxIndex is the most bytes an index.json that is added to may have.
const maxIndex = 8 << 20

// member is one file of an OCI layout.
type member struct {
	digest digest.Digest
	size   int64
	open   func() (io.ReadCloser, error)
}

// members returns the blobs of a set by digest, each once.
func (e *exporter) members(ctx context.Context, set image.Set) []member {
	byDigest := map[digest.Digest]member{}
	small := func(d digest.Digest, data []byte) {
		byDigest[d] = member{d, int64(len(data)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
	}
	for _, b := range set.Images {
		small(b.ConfigDescriptor.Digest, b.Config)
		small(b.Descriptor.Digest, b.Manifest)
		for _, l := range b.Layers {
			d := l.Descriptor
			byDigest[d.Digest] = member{d.Digest, d.Size, func() (io.ReadCloser, error) { return e.Blob(ctx, l) }}
		}
	}
	if set.Index != nil {
		small(set.Descriptor.Digest, set.Index)
	}
	out := make([]member, 0, len(byDigest))
	for _, m := range byDigest {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b member) int { return strings.Compare(a.digest.String(), b.digest.String()) })
	return out
}

// copyBlob copies a member to w, counting, and fails if it is not as long as it should be. That its content is right is for its reader
// to check (Deps.Blob).
func (e *exporter) copyBlob(ctx context.Context, w io.Writer, m member) error {
	r, err := m.open()
	if err != nil {
		return fmt.Errorf("reading blob %s: %w", m.digest, err)
	}
	defer r.Close()
	c := &counter{ctx: ctx, r: r, vertex: e.vertex, name: "writing " + shortDigest(m.digest), total: m.size}
	n, err := io.Copy(w, c)
	if err != nil {
		return fmt.Errorf("reading blob %s: %w", m.digest, err)
	}
	if n != m.size {
		return fmt.Errorf("reading blob %s: %d bytes instead of %d", m.digest, n, m.size)
	}
	return nil
}

// counter reports how far a reader has come, and ends with ctx.
type counter struct {
	ctx    context.Context
	r      io.Reader
	vertex interface {
		Count(name string, current, total int64)
	}
	name           string
	current, total int64
	shown          int64
}

func (c *counter) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.current += int64(n)
	if n > 0 && (c.current == c.total || c.current-c.shown >= 1<<20) {
		c.shown = c.current
		c.vertex.Count(c.name, c.current, c.total)
	}
	return n, err
}

// indexEntries are the entries of index.json: one for each name, or one without.
func (e *exporter) indexEntries(set image.Set, names []string) ([]ocispec.Descriptor, error) {
	created := set.Images[0].Created
	if e.Epoch != nil {
		created = *e.Epoch
	}
	entry := func(extra map[string]string) ocispec.Descriptor {
		d := set.Descriptor
		d.Annotations = extra
		if !created.IsZero() {
			d.Annotations[ocispec.AnnotationCreated] = created.UTC().Format(time.RFC3339)
		}
		for k, v := range set.Descriptor.Annotations {
			d.Annotations[k] = v
		}
		if len(d.Annotations) == 0 {
			d.Annotations = nil
		}
		return d
	}
	if len(names) == 0 {
		return []ocispec.Descriptor{entry(map[string]string{})}, nil
	}
	var out []ocispec.Descriptor
	for _, n := range names {
		r, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return nil, fmt.Errorf("reading image name %q: %w", n, err)
		}
		extra := map[string]string{annotationImageName: n}
		if t, ok := reference.TagNameOnly(r).(reference.Tagged); ok {
			extra[ocispec.AnnotationRefName] = t.Tag()
		}
		out = append(out, entry(extra))
	}
	return out, nil
}

func layoutFile() []byte {
	return fmt.Appendf(nil, `{"imageLayoutVersion":%q}`, ocispec.ImageLayoutVersion)
}

func marshalIndex(entries []ocispec.Descriptor) ([]byte, error) {
	return json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
	})
}

// writeOCITar writes an OCI image layout as a tarball: entries sorted by name, no times, no owners.
func (e *exporter) writeOCITar(ctx context.Context, w io.Writer, set image.Set, names []string) error {
	entries, err := e.indexEntries(set, names)
	if err != nil {
		return err
	}
	index, err := marshalIndex(entries)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, m := range e.members(ctx, set) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + m.digest.Encoded(), Mode: 0o444, Size: m.size}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if err := e.copyBlob(ctx, tw, m); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{"index.json", index}, {"oci-layout", layoutFile()}} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o444, Size: int64(len(f.data))}); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	return tw.Close()
}

// writeOCIDir writes an OCI image layout into a directory. One that is a layout already keeps its images: an entry of the
// same name is replaced, other entries stay. The index is replaced last, so that it never names a blob that is not there.
func (e *exporter) writeOCIDir(ctx context.Context, set image.Set, names []string) error {
	entries, err := e.indexEntries(set, names)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(e.Dest, 0o777); err != nil {
		return err
	}
	root, err := os.OpenRoot(e.Dest)
	if err != nil {
		return err
	}
	defer root.Close()
	index, err := mergeIndex(root, entries)
	if err != nil {
		return fmt.Errorf("adding to the layout %s: %w", e.Dest, err)
	}
	if err := root.MkdirAll("blobs/sha256", 0o777); err != nil {
		return err
	}
	for _, m := range e.members(ctx, set) {
		name := "blobs/sha256/" + m.digest.Encoded()
		if holds(root, name, m.digest) {
			continue
		}
		if err := replaceIn(root, name, func(w io.Writer) error { return e.copyBlob(ctx, w, m) }); err != nil {
			return err
		}
	}
	write := func(name string, data []byte) error {
		return replaceIn(root, name, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
	}
	if err := write("oci-layout", layoutFile()); err != nil {
		return err
	}
	return write("index.json", index)
}

// mergeIndex returns the index.json of root with entries added.
func mergeIndex(root *os.Root, entries []ocispec.Descriptor) ([]byte, error) {
	f, err := root.Open("index.json")
	if errors.Is(err, fs.ErrNotExist) {
		return marshalIndex(entries)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err != nil {
		return nil, err
	}
	var old ocispec.Index
	if err := json.Unmarshal(data, &old); err != nil || len(data) > maxIndex {
		return nil, errors.New("its index.json cannot be read")
	}
	key := func(d ocispec.Descriptor) string {
		if n := d.Annotations[annotationImageName]; n != "" {
			return n
		}
		if n := d.Annotations[ocispec.AnnotationRefName]; n != "" {
			return n
		}
		return d.Digest.String()
	}
	replaced := map[string]bool{}
	for _, d := range entries {
		replaced[key(d)] = true
	}
	for _, d := range slices.Backward(old.Manifests) {
		if !replaced[key(d)] {
			entries = append([]ocispec.Descriptor{d}, entries...)
		}
	}
	return marshalIndex(entries)
}

// holds reports whether root has a regular file with a digest.
func holds(root *os.Root, name string, d digest.Digest) bool {
	fi, err := root.Lstat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	f, err := root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	v := d.Verifier()
	_, err = io.Copy(v, f)
	return err == nil && v.Verified()
}
