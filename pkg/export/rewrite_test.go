package export_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/export/exporttest"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func diffIDs(t *testing.T, b image.Built) string {
	t.Helper()
	var c ocispec.Image
	if err := json.Unmarshal(b.Config, &c); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(c.RootFS.DiffIDs)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCompression(t *testing.T) {
	gz, zst, none := ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd, ocispec.MediaTypeImageLayer
	for attrs, want := range map[string][]string{
		"":                  {gz, gz, gz},
		",compression=gzip": {gz, gz, gz},
		",compression=zstd": {gz, zst, zst},
		",compression=zstd,compression-level=19,force-compression=true": {zst, zst, zst},
		",compression=uncompressed":                                     {gz, none, none},
		",compression=uncompressed,force-compression=true":              {none, none, none},
		",compression-level=9":                                          {gz, gz, gz},
		",oci-mediatypes=false,compression=gzip":                        {"", "", ""},
	} {
		t.Run(attrs, func(t *testing.T) {
			f := exporttest.New(t)
			plain := do(t, f, "type=image")
			t.Chdir(t.TempDir())
			r := do(t, f, "type=oci,tar=false,dest=layout"+attrs)
			if ix := exporttest.CheckLayout(t, os.DirFS("layout")); len(ix.Manifests) != 1 {
				t.Errorf("index %+v", ix)
			}
			for i, l := range r.Set.Images[0].Layers {
				if want[i] != "" && l.Descriptor.MediaType != want[i] {
					t.Errorf("layer %d is %s, want %s", i, l.Descriptor.MediaType, want[i])
				}
				if same := l.Descriptor.Digest == plain.Set.Images[0].Layers[i].Descriptor.Digest; want[i] != gz && want[i] != "" && same {
					t.Errorf("layer %d was not compressed anew", i)
				}
				if i == 0 && !strings.Contains(attrs, "force") && l.Descriptor.Digest != plain.Set.Images[0].Layers[0].Descriptor.Digest {
					t.Error("the layer of the base was touched")
				}
			}
			if diffIDs(t, r.Set.Images[0]) != diffIDs(t, plain.Set.Images[0]) {
				t.Error("compressing has changed a DiffID")
			}
		})
	}
}

func TestRewriteTimestamp(t *testing.T) {
	f := exporttest.New(t)
	plain := do(t, f, "type=image")
	if without := do(t, f, "type=image,rewrite-timestamp=true"); diffIDs(t, without.Set.Images[0]) != diffIDs(t, plain.Set.Images[0]) {
		t.Error("without an epoch a layer has changed")
	}
	epoch := time.Unix(exporttest.Built+100, 0)
	f.Request.Epoch = &epoch
	dir := t.TempDir()
	r := do(t, f, "type=oci,tar=false,rewrite-timestamp=true,dest="+dir)
	exporttest.CheckLayout(t, os.DirFS(dir))
	before, after := plain.Set.Images[0].Layers, r.Set.Images[0].Layers
	for i, same := range []bool{true, true, false} {
		if (before[i].DiffID == after[i].DiffID) != same {
			t.Errorf("layer %d: %s, then %s", i, before[i].DiffID, after[i].DiffID)
		}
	}
	blob, err := f.Deps.Blob(context.Background(), after[2])
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	tr, _, err := layer.Decompress(blob)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(tr); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.After(epoch) {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
	}
}
