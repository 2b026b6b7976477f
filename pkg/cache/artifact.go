package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The types of an exported cache: an OCI image manifest (image-spec 1.1, manifest.md, "Guidelines for Artifact Usage") whose config is
// the records and whose layers are the blobs they name, so that the registry keeps those.
const (
	// ArtifactType is the manifest's.
	ArtifactType = "application/vnd.cairn.cache.v1"
	recordsType  = "application/vnd.cairn.cache.records.v1+json"
	// indexType is the index of a layer (layer.Index.Marshal), inputsType what Explain needs.
	indexType  = "application/vnd.cairn.layer.index.v1+zstd"
	inputsType = "application/vnd.cairn.cache.inputs.v1+zstd"
)

const artifactVersion = 1

// maxEmbedded is the largest index, in bytes, that goes into the records: it costs a request less.
const maxEmbedded = 2 << 10

// Bounds on what an import may bring, in bytes and numbers.
const (
	maxIndexBlob   = 64 << 20
	maxUnpacked    = 256 << 20
	maxRecords     = 100_000
	maxInputsBlob  = 32 << 20
	maxRecordsBlob = 16 << 20
)

// artifactDocument is the config of an exported cache.
type artifactDocument struct {
	Version int              `json:"version"`
	Layers  []layerDocument  `json:"layers"`
	Records []recordDocument `json:"records"`
	// Inputs is a blob with what the steps depended on.
	Inputs *ocispec.Descriptor `json:"inputs,omitempty"`
}

// layerDocument is a layer that a record names, or one of a base image, of which only the index is here.
type layerDocument struct {
	DiffID digest.Digest `json:"diffID"`
	// Blob is nil for a layer of a base image.
	Blob *ocispec.Descriptor `json:"blob,omitempty"`
	// Index is a blob of its own or, where it is small, in the descriptor's Data (descriptor.md, "Embedded Content").
	Index *ocispec.Descriptor `json:"index,omitempty"`
}

// recordDocument says that the step with a key makes a layer, by its number in Layers.
type recordDocument struct {
	Key     digest.Digest `json:"key"`
	Kind    string        `json:"kind"`
	Layer   int           `json:"layer"`
	Created time.Time     `json:"created"`
}

// blob is content on its way out.
type blob struct {
	desc ocispec.Descriptor
	data []byte
}

func newBlob(mediaType string, data []byte) blob {
	return blob{ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data}
}

// manifestOf makes the manifest of an artifact.
func manifestOf(artifactType string, config ocispec.Descriptor, layers []ocispec.Descriptor) (blob, error) {
	if layers == nil {
		layers = []ocispec.Descriptor{} // "layers" is REQUIRED to be an array (manifest.md)
	}
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: config, Layers: layers,
	})
	return newBlob(ocispec.MediaTypeImageManifest, data), err
}

// parseArtifact reads the config of an exported cache and checks every name in it, before any of them becomes a path or a request.
func parseArtifact(data []byte) (artifactDocument, error) {
	var doc artifactDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return doc, err
	}
	if doc.Version != artifactVersion {
		return doc, fmt.Errorf("version %d of the records is not supported", doc.Version)
	}
	if len(doc.Records) > maxRecords || len(doc.Layers) > maxRecords {
		return doc, fmt.Errorf("more than %d records", maxRecords)
	}
	for _, l := range doc.Layers {
		if err := checkDigest(l.DiffID); err != nil {
			return doc, err
		}
		if l.Blob != nil && !valid(layer.Layer{DiffID: l.DiffID, Descriptor: *l.Blob}) {
			return doc, fmt.Errorf("layer %s has no valid blob", l.DiffID)
		}
		if l.Index != nil && (checkDigest(l.Index.Digest) != nil || l.Index.Size < 0) {
			return doc, fmt.Errorf("layer %s has no valid index", l.DiffID)
		}
	}
	for _, r := range doc.Records {
		if err := checkDigest(r.Key); err != nil {
			return doc, err
		}
		if r.Layer < 0 || r.Layer >= len(doc.Layers) || doc.Layers[r.Layer].Blob == nil {
			return doc, fmt.Errorf("record %s names no layer", r.Key)
		}
	}
	if doc.Inputs != nil && (checkDigest(doc.Inputs.Digest) != nil || doc.Inputs.Size < 0) {
		return doc, errors.New("the inputs have no valid digest")
	}
	return doc, nil
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", string(d), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %s: algorithm %s is not supported", d, d.Algorithm())
	}
	return nil
}

// compress is deterministic: with a concurrency of 1 the bytes depend on the input alone.
func compress(data []byte) ([]byte, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return z.EncodeAll(data, nil), nil
}

// compressTo is compress of what write writes.
func compressTo(w io.Writer, write func(io.Writer) error) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	return errors.Join(write(z), z.Close())
}

// decompress refuses what is larger than limit bytes.
func decompress(data []byte, limit int64) ([]byte, error) {
	var out bytes.Buffer
	err := decompressTo(&out, data, limit)
	return out.Bytes(), err
}

// decompressTo is decompress for what may be large.
func decompressTo(w io.Writer, data []byte, limit int64) error {
	z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(32<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	n, err := io.Copy(w, io.LimitReader(z, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return err
}
