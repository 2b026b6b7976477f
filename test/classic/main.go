// Command classic is a stranger's interpreter on our Backend: moby's own classic Dockerfile builder, of Docker 28, which once was `docker build`. It
// reads a build context as a tar from standard input, and prints what that builder prints.
//
//	tar c . | classic ROOT TAG
//
// It is a module of its own so that nothing of Docker's engine gets into cairn's.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cairn-build/cairn/pkg/builder"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/docker/docker/api/types/backend"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/builder/dockerfile"
	"github.com/moby/sys/user"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: tar c . | classic ROOT TAG")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "classic:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root, tag string) (err error) {
	ours, err := builder.New(builder.Options{Root: root})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.(io.Closer).Close()) }()
	manager, err := dockerfile.NewBuildManager(adapter{ours}, user.IdentityMapping{})
	if err != nil {
		return err
	}
	result, err := manager.Build(ctx, backend.BuildConfig{
		Source:         os.Stdin,
		ProgressWriter: backend.ProgressWriter{Output: io.Discard, StdoutFormatter: os.Stdout, StderrFormatter: os.Stderr},
		Options:        &build.ImageBuildOptions{Remove: true, Tags: []string{tag}},
	})
	if err != nil {
		return err
	}
	// Naming what was built is the business of the daemon around the builder.
	st, err := store.Open(root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	_, err = image.NewLocal(st).Tag(result.ImageID, tag)
	return err
}
