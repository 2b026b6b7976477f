package layer

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
)

// OpenFunc opens the file name of the n-th layer of a stack.
type OpenFunc func(n int, name string) (io.ReadCloser, error)

// Compression is how a layer's blob is compressed.
type Compression struct {
	// Type is "gzip" (the default), "zstd" or "uncompressed". Level is the codec's; 0 is its default.
	Type  string
	Level int
}

// Writer writes one layer: entries in, tar → DiffID → compressor → dst out, in one pass and constant memory. The same entries give
// the same bytes everywhere: one order (parents first, then by path), one encoding (PAX where needed), times cut to seconds.
type Writer struct{}

// NewWriter starts a layer whose compressed form goes to dst.
func NewWriter(dst io.Writer, c Compression) (*Writer, error) {
	return nil, errors.New("layer: not written yet")
}

// Add appends one entry; content is read for a File and must be exactly Size bytes. Entries must come in the order of Less.
func (w *Writer) Add(e Entry, content io.Reader) error { return errors.New("layer: not written yet") }

// Close ends the layer and returns its DiffID, the media type of what was written to dst, and its Index.
func (w *Writer) Close() (diffID digest.Digest, mediaType string, ix *Index, err error) {
	return "", "", nil, errors.New("layer: not written yet")
}

// Less is the order of entries in a layer.
func Less(a, b string) bool { return a < b }

// Limits bounds what a layer may cost to read.
type Limits struct {
	// Bytes is the most that may come out of the decompressor; Entries the most paths. 0 is the default: 20 GiB and 2 million.
	Bytes, Entries int64
}

// Unpack reads the compressed blob r of l, checks that its content has l.DiffID, and returns its index. When dir is not empty the layer is also unpacked
// there in overlay form: whiteouts are character devices 0/0, opaque directories carry user.overlay.opaque. Nothing is ever written
// outside dir. lower is the tree of the layers below, for entries whose parent is a symlink there; nil for the lowest.
func Unpack(ctx context.Context, r io.Reader, l Layer, dir string, lower Tree, lim Limits) (*Index, error) {
	return nil, errors.New("layer: not written yet")
}

// Diff writes to w what the overlay upper directory changes over lower: the entries that changed, their parent directories and whiteouts.
func Diff(ctx context.Context, upper string, lower Tree, w *Writer) error {
	return errors.New("layer: not written yet")
}
