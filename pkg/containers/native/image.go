package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/cairn-build/cairn/pkg/engine"
	"github.com/cairn-build/cairn/pkg/export"
	localimage "github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is an image of the store, or to be.
type image struct {
	b    *Backend
	name string
}

var (
	_ core.Image          = (*image)(nil)
	_ core.ProgressPuller = (*image)(nil)
	_ core.Pusher         = (*image)(nil)
)

// foundImage is an image for this machine's platform.
type foundImage struct {
	config ocispec.Image
	layers []layer.Layer
}

// find looks an image up in the store, by name or ID.
func (b *Backend) find(name string) (foundImage, error) {
	set, err := b.engine.Images().Get(name)
	if err != nil {
		return foundImage{}, err
	}
	fits := platforms.Default()
	for _, built := range set.Images {
		if len(set.Images) > 1 && built.Descriptor.Platform != nil && !fits.Match(*built.Descriptor.Platform) {
			continue
		}
		config, err := decode(built)
		if err != nil {
			return foundImage{}, fmt.Errorf("image %s: %w", name, err)
		}
		return foundImage{config: config, layers: built.Layers}, nil
	}
	return foundImage{}, fmt.Errorf("image %s is for other platforms than %s", name, platforms.DefaultString())
}

// decode reads the config of an image.
func decode(b localimage.Built) (ocispec.Image, error) {
	var c ocispec.Image
	if err := json.Unmarshal(b.Config, &c); err != nil {
		return c, fmt.Errorf("reading config %s: %w", b.ConfigDescriptor.Digest, err)
	}
	return c, nil
}

// Name implements core.Image.
func (i *image) Name() string { return i.name }

// Exists implements core.Image.
func (i *image) Exists(context.Context) bool {
	_, err := i.b.find(i.name)
	return err == nil
}

// Pull implements core.Image.
func (i *image) Pull(ctx context.Context) error { return i.PullProgress(ctx, nil) }

// PullProgress implements core.ProgressPuller. A layer that is held already is reported too.
func (i *image) PullProgress(ctx context.Context, report func(core.Progress)) error {
	client, err := i.b.engine.Client(nil)
	if err != nil {
		return err
	}
	defer client.Close()
	remote := i.b.engine.Remote(client, true)
	if report == nil {
		report = func(core.Progress) {}
	}
	sink := &pullSink{report: report, seen: map[string]bool{}}
	ctx = progress.With(ctx, sink)
	img, err := remote.ResolveImage(ctx, i.name, platforms.DefaultSpec())
	if err != nil {
		return err
	}
	layers, err := remote.Layers(ctx, img)
	if err != nil {
		return err
	}
	for _, l := range layers {
		sink.say(l, "Pulling fs layer", 0)
	}
	if _, _, err := remote.Pull(ctx, i.name, platforms.DefaultSpec()); err != nil {
		return err
	}
	for _, l := range layers {
		if sink.fetched(l) {
			sink.say(l, "Pull complete", l.Descriptor.Size)
		} else {
			sink.say(l, "Already exists", l.Descriptor.Size)
		}
	}
	report(core.Progress{Status: "Image pulled successfully"})
	return nil
}

// pullSink turns the progress of a pull into Docker's words.
type pullSink struct {
	mu     sync.Mutex
	report func(core.Progress)
	seen   map[string]bool
}

// Event implements progress.Sink: a counted transfer has the digest of its blob as its name.
func (s *pullSink) Event(e progress.Event) {
	if e.Kind != progress.Counted {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[e.Name] = true
	s.report(core.Progress{ID: shortDigest(e.Name), Status: "Downloading", Current: e.Current, Total: e.Total})
}

func (s *pullSink) fetched(l layer.Layer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[l.Descriptor.Digest.String()]
}

func (s *pullSink) say(l layer.Layer, status string, current int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report(core.Progress{ID: shortDigest(l.Descriptor.Digest.String()), Status: status, Current: current, Total: l.Descriptor.Size})
}

// shortDigest is the first twelve digits of a digest.
func shortDigest(d string) string {
	_, hex, _ := strings.Cut(d, ":")
	return hex[:min(12, len(hex))]
}

// Push implements core.Pusher.
func (i *image) Push(ctx context.Context) error {
	set, err := i.b.engine.Images().Get(i.name)
	if err != nil {
		return err
	}
	client, err := i.b.engine.Client(nil)
	if err != nil {
		return err
	}
	defer client.Close()
	return export.Push(ctx, set, []string{i.name}, export.Deps{
		Store: i.b.engine.Store(), Registry: client, Blob: i.b.engine.Remote(client, false).Blob,
	})
}

// Save writes images to an archive that Docker, podman and containerd load; see Exporter in package image.
func (b *Backend) Save(ctx context.Context, names []string, w io.Writer) error {
	client, err := b.engine.Client(nil)
	if err != nil {
		return err
	}
	defer client.Close()
	return localimage.NewExporter(b.engine.Images(), localimage.ExporterOptions{Blob: b.engine.Remote(client, false).Blob}).Save(ctx, names, w)
}

// Build implements core.Image.
func (i *image) Build(ctx context.Context, input *core.DockerfileBuild) (err error) {
	if input == nil || input.Context == nil {
		return errors.New("building: no context given")
	}
	if input.RestrictEgress {
		return fmt.Errorf("building with restricted egress: %w", core.ErrNotSupported)
	}
	out := input.Output
	if out == nil {
		out = io.Discard
	}
	show, err := progress.New("plain", out, progress.Options{NoColor: true})
	if err != nil {
		return err
	}
	_, err = i.b.engine.Build(ctx, engine.BuildRequest{
		Context: "-", Stdin: input.Context, Dockerfile: input.Dockerfile, Tags: []string{i.name},
	}, show)
	return errors.Join(err, show.Close())
}

// Remove implements core.Image.
func (i *image) Remove(context.Context) error {
	_, err := i.b.engine.Images().Delete(i.name, localimage.DeleteOptions{Force: true})
	return err
}

// Digest implements core.Image.
func (i *image) Digest(context.Context) (string, error) {
	set, err := i.b.engine.Images().Get(i.name)
	if err != nil {
		return "", err
	}
	return set.Descriptor.Digest.Encoded(), nil
}

// Tags implements core.Image.
func (i *image) Tags(context.Context) ([]string, error) {
	names, err := i.b.engine.Images().Names(i.name)
	if err != nil {
		return nil, err
	}
	for n := range names {
		names[n] = localimage.Familiar(names[n])
	}
	return names, nil
}
