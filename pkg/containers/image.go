package containers

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cairn-build/cairn/pkg/containers/core"
)

// DockerImage is an image of a Client.
type DockerImage struct {
	backend        core.Backend
	name           string
	tarball        io.Reader
	output         io.Writer
	restrictEgress bool
}

// ImageOption changes what Client.Image does.
type ImageOption func(*DockerImage) error

// Build has the image built from a tar of its context, compressed or not, in which the Dockerfile is called Dockerfile.
func Build(tarball io.Reader) ImageOption {
	return func(i *DockerImage) error {
		if tarball == nil {
			return errors.New("Build: no context given")
		}
		i.tarball = tarball
		return nil
	}
}

// Dockerfile has the image built from one file, with a context of nothing else. The file must be called Dockerfile.
func Dockerfile(path string) ImageOption {
	return func(i *DockerImage) error {
		data, err := singleFile(path)
		i.tarball = data
		return err
	}
}

// Output is where the progress of a build goes as text. The default is the standard output for a Verbose client, and nowhere otherwise.
func Output(w io.Writer) ImageOption {
	return func(i *DockerImage) error {
		i.output = w
		return nil
	}
}

// RestrictedBuildEgress keeps the build from everything but the public internet. A backend that cannot do that refuses to build.
func RestrictedBuildEgress() ImageOption {
	return func(i *DockerImage) error {
		i.restrictEgress = true
		return nil
	}
}

// singleFile returns a compressed tar of one regular file under its base name.
func singleFile(path string) (io.Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	err = w.WriteHeader(&tar.Header{Name: filepath.Base(path), Mode: int64(fi.Mode().Perm()), Size: int64(len(data)), ModTime: fi.ModTime()})
	if err == nil {
		_, err = w.Write(data)
	}
	return &b, errors.Join(err, w.Close(), z.Close())
}

func (i *DockerImage) build(ctx context.Context) error {
	err := i.backend.Image(i.name).Build(ctx, &core.DockerfileBuild{Context: i.tarball, RestrictEgress: i.restrictEgress, Output: i.output})
	if err != nil {
		return fmt.Errorf("%w with: %w", ErrorImageBuildDockerFile, err)
	}
	return nil
}

// PullStatus is one message about a pull, in the form of Docker's JSON messages.
type PullStatus struct {
	Status         string `json:"status"`
	ProgressDetail struct {
		Current int `json:"current"`
		Total   int `json:"total"`
	} `json:"progressDetail"`
	// Id is the beginning of the digest of the layer that is meant.
	Id          string `json:"id"`
	Error       string `json:"error"`
	ErrorDetail struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
}

// BuildStatus is one message about a build, in the form of Docker's JSON messages.
type BuildStatus struct {
	Stream      string `json:"stream"`
	Error       string `json:"error"`
	ErrorDetail struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
}

// Pull takes the image from its registry. What happens to every layer is sent to status, which may be nil; a message that cannot be
// received at once is dropped. The image is returned also with an error.
func (i *DockerImage) Pull(ctx context.Context, status chan<- PullStatus) (*DockerImage, error) {
	send := func(s PullStatus) {
		select {
		case status <- s:
		default: // also for nil
		}
	}
	var err error
	if p, ok := i.backend.Image(i.name).(core.ProgressPuller); ok {
		err = p.PullProgress(ctx, func(p core.Progress) {
			s := PullStatus{Status: p.Status, Id: p.ID}
			s.ProgressDetail.Current, s.ProgressDetail.Total = int(p.Current), int(p.Total)
			send(s)
		})
	} else if err = i.backend.Image(i.name).Pull(ctx); err == nil {
		send(PullStatus{Status: "Image pulled successfully"})
	}
	if err != nil {
		s := PullStatus{Error: err.Error()}
		s.ErrorDetail.Message = err.Error()
		send(s)
		return i, fmt.Errorf("%w with: %w", ErrorClientPull, err)
	}
	return i, nil
}

// Push sends the image to its registry. A backend that cannot is an error that matches core.ErrNotSupported.
func (i *DockerImage) Push(ctx context.Context) error {
	p, ok := i.backend.Image(i.name).(core.Pusher)
	if !ok {
		return fmt.Errorf("pushing image `%s`: %w", i.name, core.ErrNotSupported)
	}
	return p.Push(ctx)
}

// Name is the name the image was asked for by.
func (i *DockerImage) Name() string { return i.name }

// Exists reports whether the backend has the image. Nothing is pulled, and an error is no.
func (i *DockerImage) Exists(ctx context.Context) bool { return i.backend.Image(i.name).Exists(ctx) }

// Instantiate makes a container of the image, which is not started.
func (i *DockerImage) Instantiate(ctx context.Context, options ...ContainerOption) (*Container, error) {
	c := &Container{image: i}
	for _, opt := range options {
		if err := opt(c); err != nil {
			return nil, fmt.Errorf("%w for image `%s` with: %w", ErrorContainerOptions, i.name, err)
		}
	}
	c.config.Image = i.name
	var err error
	if c.id, err = i.backend.Create(ctx, &c.config); err != nil {
		return nil, fmt.Errorf("%w for image `%s` with: %w", ErrorContainerCreate, i.name, err)
	}
	return c, nil
}
