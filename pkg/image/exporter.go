package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Exporter moves images in and out of a store as tar archives.
type Exporter interface {
	// Load keeps the images of an archive: Docker's (with a manifest.json, as docker save and podman save write it, of one image
	// or several) or an OCI layout in a tar, compressed in any way or not. Layers are compared with their DiffIDs, and those that
	// the store has are not read. What happens is written to out as lines of JSON (jsonstream.Message): the names or IDs that
	// were loaded, and, unless quiet, progress. in is not closed.
	Load(ctx context.Context, in io.ReadCloser, out io.Writer, quiet bool) error
	// Save writes images to one archive that is both Docker's and an OCI layout. A name without a tag stands for all tags of the
	// repository; an ID, or the beginning of one, for the image without its names. Layers are written uncompressed, each once.
	// The same images give the same bytes.
	Save(ctx context.Context, names []string, out io.Writer) error
}

// ExporterOptions are what an exporter works with.
type ExporterOptions struct {
	// Blob opens the compressed bytes of a layer, verified, fetching them where the store does not hold them. Nil reads what is
	// held and fetches nothing.
	Blob func(ctx context.Context, l layer.Layer) (io.ReadCloser, error)
	// Platform is the one to load or save; nil is all there are.
	Platform *ocispec.Platform
}

// NewExporter returns the archives of a local store's images.
func NewExporter(lo *Local, o ExporterOptions) Exporter {
	if o.Blob == nil {
		o.Blob = func(_ context.Context, l layer.Layer) (io.ReadCloser, error) {
			return lo.store.OpenBlob(l.Descriptor.Digest)
		}
	}
	return &exporter{Local: lo, ExporterOptions: o}
}

type exporter struct {
	*Local
	ExporterOptions
}

// The names of files in archives (Docker image spec v1.3; OCI image-spec, image-layout.md).
const (
	manifestFile     = "manifest.json"
	repositoriesFile = "repositories"
)

// annotationImageName is where containerd, and so Docker, look for the whole name of an image in an OCI layout.
const annotationImageName = "io.containerd.image.name"

// manifestItem is one image in manifest.json.
type manifestItem struct {
	Config   string
	RepoTags []string
	Layers   []string
	Parent   ID `json:",omitempty"`
	// LayerSources are where layers come from that may not be distributed, by DiffID.
	LayerSources map[digest.Digest]ocispec.Descriptor `json:",omitempty"`
}

// blobName is the name of a blob in a layout.
func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// foreignBucket is the records of where layers come from that may not be distributed, by DiffID.
const foreignBucket = "foreign"

// reporter writes what Load does. It is not safe for concurrent use.
type reporter struct {
	enc   *json.Encoder
	quiet bool
	shown time.Time
}

// say writes a line for people.
func (r *reporter) say(format string, args ...any) error {
	return r.enc.Encode(jsonstream.Message{Stream: fmt.Sprintf(format, args...) + "\n"})
}

// progressPause is the least time between two reports of progress.
const progressPause = 100 * time.Millisecond

// progress reports how much of a layer was read, not too often.
func (r *reporter) progress(diffID digest.Digest, current, total int64) error {
	if r.quiet || current < total && time.Since(r.shown) < progressPause {
		return nil
	}
	r.shown = time.Now()
	return r.enc.Encode(jsonstream.Message{
		Status: "Loading layer", ID: diffID.Encoded()[:12], Progress: &jsonstream.Progress{Current: current, Total: total},
	})
}

// watched is a layer being read.
type watched struct {
	*io.SectionReader
	r      *reporter
	diffID digest.Digest
	n      int64
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.SectionReader.Read(p)
	w.n += int64(n)
	if perr := w.r.progress(w.diffID, w.n, w.Size()); perr != nil {
		return n, perr
	}
	return n, err
}
