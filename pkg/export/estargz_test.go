package export_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/export/exporttest"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const seekable = "type=oci,tar=false,compression=estargz"

// layersOf are the layers as the manifest in a layout names them.
func layersOf(t *testing.T, dir string, r export.Result) []ocispec.Descriptor {
	t.Helper()
	exporttest.CheckLayout(t, os.DirFS(dir))
	var m ocispec.Manifest
	if err := json.Unmarshal(r.Set.Images[0].Manifest, &m); err != nil {
		t.Fatal(err)
	}
	return m.Layers
}

// checkSeekable reads a blob as a lazy snapshotter does: the table of contents against the annotation, then a file by it.
func checkSeekable(t *testing.T, data []byte, d ocispec.Descriptor, name, content string) {
	t.Helper()
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.VerifyTOC(digest.Digest(d.Annotations[estargz.TOCJSONDigestAnnotation])); err != nil {
		t.Error(err)
	}
	f, err := r.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != content {
		t.Errorf("%s holds %.40q, %v", name, got, err)
	}
	plain, _, err := layer.Decompress(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, plain)
	if err != nil || strconv.FormatInt(n, 10) != d.Annotations[estargz.StoreUncompressedSizeAnnotation] {
		t.Errorf("%d bytes are in it, the descriptor says %v, %v", n, d.Annotations, err)
	}
}

func TestEstargz(t *testing.T) {
	epoch := time.Unix(exporttest.Built+100, 0)
	for attrs, from := range map[string]int{"": 1, ",force-compression=true": 0, ",rewrite-timestamp=true,compression-level=9": 1} {
		t.Run(attrs, func(t *testing.T) {
			f := exporttest.New(t)
			f.Request.Epoch = &epoch
			plain := do(t, f, "type=image")
			dir := "layout"
			t.Chdir(t.TempDir())
			r := do(t, f, seekable+attrs+",dest="+dir)
			if again := do(t, f, seekable+attrs+",dest=again"); again.Set.Descriptor.Digest != r.Set.Descriptor.Digest {
				t.Error("the same image twice is not the same")
			}
			names, contents := []string{"etc/passwd", "hidden/new", "late"}, []string{"root:x:0:0::/root:/bin/sh\n", "new", "made later than the epoch"}
			for i, d := range layersOf(t, dir, r) {
				if i < from {
					if len(d.Annotations) > 0 || d.Digest != plain.Set.Images[0].Layers[i].Descriptor.Digest {
						t.Errorf("the base's layer is %+v", d)
					}
					continue
				}
				data, err := os.ReadFile(dir + "/blobs/sha256/" + d.Digest.Encoded())
				if err != nil {
					t.Fatal(err)
				}
				checkSeekable(t, data, d, names[i], contents[i])
			}
		})
	}
}

// TestEstargzStays: a layer that is eStargz already is not made once more, and what its descriptor says is kept when it is a base image's.
func TestEstargzStays(t *testing.T) {
	f := exporttest.New(t)
	dir := t.TempDir()
	r := do(t, f, seekable+",force-compression=true,dest="+dir)
	base := r.Set.Images[0].Layers[:1]
	spec := f.Request.Images[0]
	spec.Base = base
	f.Request.Images = []image.Spec{spec}
	for _, attrs := range []string{"", ",compression=estargz,force-compression=true"} {
		dir := t.TempDir()
		d := layersOf(t, dir, do(t, f, "type=oci,tar=false"+attrs+",dest="+dir))[0]
		if d.Digest != base[0].Descriptor.Digest || len(d.Annotations) != 2 {
			t.Errorf("%q: the base's layer is %+v", attrs, d)
		}
	}
}
