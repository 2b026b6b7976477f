// Command importer is a program as a stranger would write it: two clients of pkg/containers in one process, which build and run at the same
// time. Nothing in it is there for cairn's worker. It prints what both containers say.
//
//	importer DIRECTORY BASE
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/cairn-build/cairn/pkg/containers"
	"github.com/cairn-build/cairn/pkg/containers/core"
	"golang.org/x/sync/errgroup"
)

func main() {
	var g errgroup.Group
	said := make([]string, 2)
	for n := range said {
		g.Go(func() (err error) {
			said[n], err = buildAndRun(filepath.Join(os.Args[1], fmt.Sprint(n)), os.Args[2])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		log.Fatal(err)
	}
	fmt.Print(said[0], said[1])
}

// buildAndRun builds an image whose RUN notes how it is confined, and runs a container that says it and how itself is.
func buildAndRun(store, base string) (_ string, err error) {
	ctx := context.Background()
	client, err := containers.New(containers.WithNative(core.NativeConfig{Root: store}))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	const confined = "grep ^Seccomp: /proc/self/status; unshare -U true 2>/dev/null && echo A USER NAMESPACE WAS MADE! || echo refused"
	image, err := client.Image(ctx, "localhost/importer:1", containers.Build(dockerfile("FROM "+base+"\nRUN ("+confined+") > /run.txt\n")))
	if err != nil {
		return "", err
	}
	container, err := image.Instantiate(ctx, containers.Command([]string{"sh", "-c", "cat /run.txt; " + confined}))
	if err != nil {
		return "", err
	}
	logs, err := container.Run(ctx)
	if err != nil {
		return "", err
	}
	out, err := io.ReadAll(logs.Combined())
	return string(out), err
}

// dockerfile is a build context with nothing else.
func dockerfile(text string) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		log.Fatal(err)
	}
	return &b
}
