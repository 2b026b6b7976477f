package builder_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/cairn-build/cairn/pkg/builder"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/moby/moby/api/types/container"
)

// What an interpreter does for FROM scratch and COPY: a writable layer, a file in it, and an image of the layer.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	backend, err := builder.New(builder.Options{Root: dir + "/store"})
	if err != nil {
		log.Fatal(err)
	}
	defer backend.(io.Closer).Close()
	_, scratch, err := backend.GetImageAndReleasableLayer(ctx, "", builder.GetImageAndLayerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer scratch.Release()
	layer, err := scratch.NewRWLayer()
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Release()
	if err := os.WriteFile(filepath.Join(layer.Root(), "greeting"), []byte("hello\n"), 0o644); err != nil {
		log.Fatal(err)
	}
	top, err := layer.Commit()
	if err != nil {
		log.Fatal(err)
	}
	defer top.Release()
	child := image.NewChildImage(&image.Image{}, image.ChildConfig{
		DiffID: top.DiffID(), ContainerConfig: &container.Config{Cmd: []string{"COPY greeting /"}}, Config: &container.Config{Cmd: []string{"/greeting"}},
	}, "linux")
	config, err := child.MarshalJSON()
	if err != nil {
		log.Fatal(err)
	}
	made, err := backend.CreateImage(ctx, config, "", top.ContentStoreDigest())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(made.OperatingSystem(), made.RunConfig().Cmd)
	// Output: linux [/greeting]
}
