package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
)

type image struct {
	b    *Backend
	name string
}

var (
	_ core.Image          = (*image)(nil)
	_ core.ProgressPuller = (*image)(nil)
)

// Name implements core.Image.
func (i *image) Name() string { return i.name }

// Exists implements core.Image.
func (i *image) Exists(ctx context.Context) bool {
	_, err := i.b.client.ImageInspect(ctx, i.name)
	return err == nil
}

// Pull implements core.Image.
func (i *image) Pull(ctx context.Context) error { return i.PullProgress(ctx, nil) }

// PullProgress implements core.ProgressPuller.
func (i *image) PullProgress(ctx context.Context, report func(core.Progress)) error {
	r, err := i.b.client.ImagePull(ctx, i.name, client.ImagePullOptions{})
	if err != nil {
		return err
	}
	defer r.Close()
	return messages(r, func(m jsonstream.Message) {
		if report == nil {
			return
		}
		p := core.Progress{ID: m.ID, Status: m.Status}
		if m.Progress != nil {
			p.Current, p.Total = m.Progress.Current, m.Progress.Total
		}
		report(p)
	})
}

// messages reads the daemon's JSON messages to their end. One of an error is the error.
func messages(r io.Reader, each func(jsonstream.Message)) error {
	for d := json.NewDecoder(r); ; {
		var m jsonstream.Message
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading what docker says: %w", err)
		case m.Error != nil:
			return m.Error
		}
		each(m)
	}
}

// Build implements core.Image.
func (i *image) Build(ctx context.Context, input *core.DockerfileBuild) error {
	if input == nil || input.Context == nil {
		return errors.New("building: no context given")
	}
	if input.RestrictEgress {
		return fmt.Errorf("building with restricted egress: %w", core.ErrNotSupported)
	}
	r, err := i.b.client.ImageBuild(ctx, input.Context, client.ImageBuildOptions{
		Tags: []string{i.name}, Dockerfile: input.DockerfileName(), Remove: true, ForceRemove: true,
	})
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return messages(r.Body, func(m jsonstream.Message) {
		if input.Output != nil {
			_, _ = io.WriteString(input.Output, m.Stream)
		}
	})
}

// Remove implements core.Image.
func (i *image) Remove(ctx context.Context) error {
	_, err := i.b.client.ImageRemove(ctx, i.name, client.ImageRemoveOptions{Force: true, PruneChildren: true})
	return err
}

// Digest implements core.Image.
func (i *image) Digest(ctx context.Context) (string, error) {
	img, err := i.b.client.ImageInspect(ctx, i.name)
	if err != nil {
		return "", err
	}
	d := img.ID
	if len(img.RepoDigests) > 0 {
		_, d, _ = strings.Cut(img.RepoDigests[0], "@")
	}
	return strings.TrimPrefix(d, "sha256:"), nil
}

// Tags implements core.Image.
func (i *image) Tags(ctx context.Context) ([]string, error) {
	img, err := i.b.client.ImageInspect(ctx, i.name)
	return img.RepoTags, err
}

// Clean implements core.Backend.
func (b *Backend) Clean(ctx context.Context, age time.Duration, reference string) error {
	filter := map[string]map[string]bool{}
	if reference != "" {
		filter["reference"] = map[string]bool{reference: true}
	}
	return b.CleanFilter(ctx, age, filter)
}

// CleanFilter implements core.FilterCleaner. The filters are the daemon's.
func (b *Backend) CleanFilter(ctx context.Context, age time.Duration, filter map[string]map[string]bool) error {
	list, err := b.client.ImageList(ctx, client.ImageListOptions{Filters: maps.Clone(filter)})
	if err != nil {
		return err
	}
	limit := time.Now().Add(-age)
	var errs []error
	for _, img := range list.Items {
		if !time.Unix(img.Created, 0).Before(limit) {
			continue
		}
		if _, err := b.client.ImageRemove(ctx, img.ID, client.ImageRemoveOptions{Force: true, PruneChildren: true}); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
