package main

import (
	"context"
	"encoding/json"
	"io"

	"github.com/cairn-build/cairn/pkg/builder"
	"github.com/docker/docker/api/types/backend"
	"github.com/docker/docker/api/types/container"
	dockerbuilder "github.com/docker/docker/builder"
	"github.com/docker/docker/image"
	"github.com/docker/docker/layer"
	mobycontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// adapter says the same in the words of Docker 28: its structs are those of moby's API under another path.
type adapter struct{ ours builder.Backend }

var _ dockerbuilder.Backend = adapter{}

// convert copies a struct of the API into its twin.
func convert[To, From any](from *From) (*To, error) {
	if from == nil {
		return nil, nil
	}
	data, err := json.Marshal(from)
	if err != nil {
		return nil, err
	}
	to := new(To)
	return to, json.Unmarshal(data, to)
}

// dockerImage reads our image as Docker's, which is what the builder wants to see.
func dockerImage(img builder.Image) (dockerbuilder.Image, error) {
	if img == nil {
		return nil, nil
	}
	data, err := img.MarshalJSON()
	if err != nil {
		return nil, err
	}
	theirs, err := image.NewFromJSON(data)
	if err != nil {
		return nil, err
	}
	return image.Clone(theirs, image.ID(img.ImageID())), nil
}

func (a adapter) GetImageAndReleasableLayer(ctx context.Context, refOrID string, o backend.GetImageAndLayerOptions) (dockerbuilder.Image, dockerbuilder.ROLayer, error) {
	opts := builder.GetImageAndLayerOptions{
		PullOption: builder.PullOption(o.PullOption), Output: o.Output, Platform: o.Platform, AuthConfig: map[string]registry.AuthConfig{},
	}
	for host, auth := range o.AuthConfig {
		c, err := convert[registry.AuthConfig](&auth)
		if err != nil {
			return nil, nil, err
		}
		opts.AuthConfig[host] = *c
	}
	img, l, err := a.ours.GetImageAndReleasableLayer(ctx, refOrID, opts)
	if err != nil {
		return nil, nil, err
	}
	theirs, err := dockerImage(img)
	return theirs, roLayer{l}, err
}

type roLayer struct{ builder.ROLayer }

func (l roLayer) DiffID() layer.DiffID { return layer.DiffID(l.ROLayer.DiffID()) }

func (l roLayer) NewRWLayer() (dockerbuilder.RWLayer, error) {
	rw, err := l.ROLayer.NewRWLayer()
	if err != nil {
		return nil, err
	}
	return rwLayer{rw}, nil
}

type rwLayer struct{ builder.RWLayer }

func (l rwLayer) Commit() (dockerbuilder.ROLayer, error) {
	ro, err := l.RWLayer.Commit()
	if err != nil {
		return nil, err
	}
	return roLayer{ro}, nil
}

func (a adapter) CommitBuildStep(ctx context.Context, c backend.CommitConfig) (image.ID, error) {
	config, err := convert[mobycontainer.Config](c.Config)
	if err != nil {
		return "", err
	}
	ran, err := convert[mobycontainer.Config](c.ContainerConfig)
	if err != nil {
		return "", err
	}
	id, err := a.ours.CommitBuildStep(ctx, builder.CommitConfig{
		Author: c.Author, Comment: c.Comment, Config: config, ContainerConfig: ran, ContainerID: c.ContainerID,
	})
	return image.ID(id), err
}

func (a adapter) ContainerCreateWorkdir(id string) error { return a.ours.ContainerCreateWorkdir(id) }

func (a adapter) CreateImage(ctx context.Context, config []byte, parent string, d digest.Digest) (dockerbuilder.Image, error) {
	img, err := a.ours.CreateImage(ctx, config, parent, d)
	if err != nil {
		return nil, err
	}
	return dockerImage(img)
}

func (a adapter) ContainerAttachRaw(id string, stdin io.ReadCloser, stdout, stderr io.Writer, stream bool, attached chan struct{}) error {
	return a.ours.ContainerAttachRaw(id, stdin, stdout, stderr, stream, attached)
}

func (a adapter) ContainerCreateIgnoreImagesArgsEscaped(ctx context.Context, c backend.ContainerCreateConfig) (container.CreateResponse, error) {
	config, err := convert[mobycontainer.Config](c.Config)
	if err != nil {
		return container.CreateResponse{}, err
	}
	host, err := convert[mobycontainer.HostConfig](c.HostConfig)
	if err != nil {
		return container.CreateResponse{}, err
	}
	made, err := a.ours.ContainerCreateIgnoreImagesArgsEscaped(ctx, builder.ContainerCreateConfig{
		Name: c.Name, Config: config, HostConfig: host, Platform: c.Platform,
	})
	return container.CreateResponse{ID: made.ID, Warnings: made.Warnings}, err
}

func (a adapter) ContainerRm(name string, c *backend.ContainerRmConfig) error {
	return a.ours.ContainerRm(name, (*builder.ContainerRmConfig)(c))
}

func (a adapter) ContainerStart(ctx context.Context, id, checkpoint, dir string) error {
	return a.ours.ContainerStart(ctx, id, checkpoint, dir)
}

func (a adapter) ContainerWait(ctx context.Context, name string, condition container.WaitCondition) (<-chan container.StateStatus, error) {
	ended, err := a.ours.ContainerWait(ctx, name, mobycontainer.WaitCondition(condition))
	if err != nil {
		return nil, err
	}
	out := make(chan container.StateStatus, 1)
	go func() {
		st := <-ended
		out <- container.NewStateStatus(st.ExitCode(), st.Err())
	}()
	return out, nil
}

func (a adapter) MakeImageCache(ctx context.Context, cacheFrom []string) (dockerbuilder.ImageCache, error) {
	c, err := a.ours.MakeImageCache(ctx, cacheFrom)
	if err != nil {
		return nil, err
	}
	return cache{c}, nil
}

type cache struct{ ours builder.ImageCache }

func (c cache) GetCache(parentID string, cfg *container.Config, platform ocispec.Platform) (string, error) {
	ours, err := convert[mobycontainer.Config](cfg)
	if err != nil {
		return "", err
	}
	return c.ours.GetCache(parentID, ours, platform)
}
