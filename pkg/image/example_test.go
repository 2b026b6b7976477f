package image_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
)

// openStore makes a store for an example.
func openStore() (*store.Store, func()) {
	dir, err := os.MkdirTemp("", "cairn-example-")
	if err != nil {
		log.Fatal(err)
	}
	s, err := store.Open(dir + "/store")
	if err != nil {
		log.Fatal(err)
	}
	return s, func() { _ = s.Close(); _ = os.RemoveAll(dir) }
}

// addLayer makes a layer with one file.
func addLayer(s *store.Store, name, content string) (layer.Layer, error) {
	w, err := s.NewBlob(context.Background())
	if err != nil {
		return layer.Layer{}, err
	}
	defer w.Abort()
	lw, err := layer.NewWriter(w, layer.Compression{})
	if err != nil {
		return layer.Layer{}, err
	}
	e := layer.Entry{Path: name, Type: layer.File, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)}
	if err := lw.Add(e, strings.NewReader(content)); err != nil {
		return layer.Layer{}, err
	}
	diffID, mediaType, index, err := lw.Close()
	if err != nil {
		return layer.Layer{}, err
	}
	d, err := w.Commit("")
	if err != nil {
		return layer.Layer{}, err
	}
	d.MediaType = mediaType
	l := layer.Layer{DiffID: diffID, Descriptor: d}
	return l, s.PutLayer(l, index)
}

// An image is made of a layer, stored, named, saved to an archive and loaded into another store.
func Example() {
	here, done := openStore()
	defer done()
	l, err := addLayer(here, "hello", "good day\n")
	if err != nil {
		log.Fatal(err)
	}
	scratch := &image.Image{V1Image: image.V1Image{Architecture: "amd64"}}
	img := image.NewChildImage(scratch, image.ChildConfig{
		DiffID:          l.DiffID,
		ContainerConfig: &container.Config{Cmd: []string{"ADD hello"}},
		Config:          &container.Config{Entrypoint: []string{"/hello"}},
	}, "linux")
	config, err := json.Marshal(img)
	if err != nil {
		log.Fatal(err)
	}
	local := image.NewLocal(here)
	images, err := local.Store()
	if err != nil {
		log.Fatal(err)
	}
	id, err := images.Create(config)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := local.Tag(id.String(), "example.com/hello:v1"); err != nil {
		log.Fatal(err)
	}
	var archive bytes.Buffer
	if err := image.NewExporter(local, image.ExporterOptions{}).Save(context.Background(), []string{"example.com/hello"}, &archive); err != nil {
		log.Fatal(err)
	}

	there, done := openStore()
	defer done()
	other := image.NewLocal(there)
	if err := image.NewExporter(other, image.ExporterOptions{}).Load(context.Background(), io.NopCloser(&archive), os.Stdout, true); err != nil {
		log.Fatal(err)
	}
	set, err := other.Get("example.com/hello:v1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(set.ConfigDigest() == id.Digest())
	// Output:
	// {"stream":"Loaded image: example.com/hello:v1\n"}
	// true
}

// noLayers is a LayerGetReleaser for images without layers.
type noLayers struct{}

func (noLayers) Get(image.ChainID) (image.StoredLayer, error)             { return nil, image.ErrLayerDoesNotExist }
func (noLayers) Release(image.StoredLayer) ([]image.LayerMetadata, error) { return nil, nil }

// A Store in a directory of its own, with the layers of whoever gives them out.
func ExampleNewImageStore() {
	dir, err := os.MkdirTemp("", "cairn-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	backend, err := image.NewFSStoreBackend(dir)
	if err != nil {
		log.Fatal(err)
	}
	images, err := image.NewImageStore(backend, noLayers{})
	if err != nil {
		log.Fatal(err)
	}
	parent, err := images.Create([]byte(`{"os":"linux","rootfs":{"type":"layers"}}`))
	if err != nil {
		log.Fatal(err)
	}
	child, err := images.Create([]byte(`{"os":"linux","author":"me","rootfs":{"type":"layers"}}`))
	if err != nil {
		log.Fatal(err)
	}
	if err := images.SetParent(child, parent); err != nil {
		log.Fatal(err)
	}
	found, err := images.Search(parent.Digest().Encoded()[:12])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found == parent, len(images.Children(parent)), len(images.Heads()), images.Len())
	// Output: true 1 1 2
}

func ExampleRootFS_ChainID() {
	fs := image.NewRootFS()
	for _, content := range []string{"base", "packages", "program"} {
		fs.Append(digest.FromString(content))
	}
	fmt.Println(fs.ChainID())
	// Output: sha256:b6caa125710e5e8e30b5a28561605aa016e7ad22dda10ed390f73bb6c81458b0
}
