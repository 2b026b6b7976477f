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
		made, err := Recompress(context.Background(), bytes.NewReader(blob), l, &dst, Compression{Type: c.typ})
		if err != nil || made.Descriptor.MediaType != c.mediaType || made.DiffID != l.DiffID {
			t.Fatalf("%s: %+v %v", c.typ, made, err)
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

// TestEstargzOfAnything: what is no archive, or looks like something else to the library, is an error, whoever wrote it.
func TestEstargzOfAnything(t *testing.T) {
	for _, data := range [][]byte{
		bytes.Repeat([]byte("no tar at all "), 100000), append([]byte{0x1f, 0x8b, 8}, make([]byte, 4096)...), make([]byte, 100), make([]byte, 1024), nil,
	} {
		l := Layer{DiffID: digest.FromBytes(data)}
		var dst bytes.Buffer
		made, err := Recompress(context.Background(), bytes.NewReader(data), l, &dst, Compression{Type: "estargz"})
		if len(data) == 1024 || data == nil { // archives that hold nothing
			if err != nil || made.DiffID == l.DiffID {
				t.Errorf("%d bytes: %+v, %v", len(data), made, err)
			}
		} else if err == nil {
			t.Errorf("%.20q was accepted", data)
		}
	}
	var blob, again bytes.Buffer
	w, err := NewWriter(&blob, Compression{Type: "estargz"})
	if err != nil {
		t.Fatal(err)
	}
	diffID, _, _, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if made, err := Recompress(context.Background(), bytes.NewReader(blob.Bytes()), Layer{DiffID: diffID}, &again, Compression{}); err != nil || made.DiffID != diffID {
		t.Errorf("an empty layer: %+v, %v", made, err)
	}
}
