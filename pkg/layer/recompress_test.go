package layer

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The archive stays the same whoever wrote it; here it is not even one.
func TestRecompress(t *testing.T) {
	data := bytes.Repeat([]byte("no tar at all "), 100000)
	l := Layer{DiffID: digest.FromBytes(data)}
	blob := data
	for _, c := range []struct{ typ, mediaType string }{
		{"gzip", ocispec.MediaTypeImageLayerGzip}, {"zstd", ocispec.MediaTypeImageLayerZstd}, {"uncompressed", ocispec.MediaTypeImageLayer},
	} {
		var dst bytes.Buffer
		mt, err := Recompress(context.Background(), bytes.NewReader(blob), l, &dst, Compression{Type: c.typ})
		if err != nil || mt != c.mediaType {
			t.Fatalf("%s: %s %v", c.typ, mt, err)
		}
		blob = dst.Bytes()
		r, kind, err := Decompress(bytes.NewReader(blob))
		if err != nil || kind != c.typ {
			t.Fatalf("%s: it is %s, %v", c.typ, kind, err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: the content has changed, %v", c.typ, err)
		}
	}
	l.DiffID = digest.FromString("other")
	if _, err := Recompress(context.Background(), bytes.NewReader(blob), l, io.Discard, Compression{}); err == nil {
		t.Error("a wrong DiffID was accepted")
	}
}
