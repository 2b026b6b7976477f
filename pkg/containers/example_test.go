package containers_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/cairn-build/cairn/pkg/containers"
	"github.com/cairn-build/cairn/pkg/containers/core"
)

// A Dockerfile is built from a tar stream. FROM scratch needs no registry.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	client, err := containers.New(containers.WithNative(core.NativeConfig{Root: dir + "/store"}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	image, err := client.Image(ctx, "localhost/example:1", containers.Build(exampleContext()))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(image.Name(), image.Exists(ctx))
	// Output: localhost/example:1 true
}

// exampleContext is a tar with a Dockerfile and a file.
func exampleContext() io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range [][2]string{{"Dockerfile", "FROM scratch\nCOPY greeting /\n"}, {"greeting", "hello\n"}} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			log.Fatal(err)
		}
		if _, err := io.WriteString(w, f[1]); err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	return &b
}

func ExampleFilter() {
	f := containers.NewFilter("label", "stage=test").Add("dangling", "true")
	fmt.Println(f["label"], f["dangling"])
	// Output: map[stage=test:true] map[true:true]
}

func ExampleAvailableBackends() {
	fmt.Println(containers.AvailableBackends())
	// Output: [native]
}
