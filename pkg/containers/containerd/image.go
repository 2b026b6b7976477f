package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

type image struct {
	b    *Backend
	name string
}

var (
	_ core.Image          = (*image)(nil)
	_ core.ProgressPuller = (*image)(nil)
	_ core.Pusher         = (*image)(nil)
)

// full is a name as containerd keeps it: docker.io/library/debian:latest for debian.
func full(name string) (string, error) {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", name, err)
	}
	return named.String(), nil
}

// image returns an image that containerd has.
func (b *Backend) image(ctx context.Context, name string) (client.Image, error) {
	ref, err := full(name)
	if err != nil {
		return nil, err
	}
	return b.client.GetImage(b.in(ctx), ref)
}

// Name implements core.Image.
func (i *image) Name() string { return i.name }

// Exists implements core.Image.
func (i *image) Exists(ctx context.Context) bool {
	_, err := i.b.image(ctx, i.name)
	return err == nil
}

// Pull implements core.Image.
func (i *image) Pull(ctx context.Context) error { return i.PullProgress(ctx, nil) }

// PullProgress implements core.ProgressPuller.
func (i *image) PullProgress(ctx context.Context, report func(core.Progress)) error {
	ref, err := full(i.name)
	if err != nil {
		return err
	}
	ctx = i.b.in(ctx)
	p := &pull{store: i.b.client.ContentStore(), report: report}
	stop := p.watch(ctx)
	_, err = i.b.client.Pull(ctx, ref, client.WithPullUnpack, client.WithPullSnapshotter(i.b.config.Snapshotter), client.WithResolver(i.b.resolver()),
		client.WithImageHandler(images.HandlerFunc(p.see)))
	stop()
	if err != nil {
		return err
	}
	p.done()
	return nil
}

// resolver speaks to registries with the credentials that the configuration gives. Those on the loopback interface are spoken to without TLS.
func (b *Backend) resolver() remotes.Resolver {
	opts := []docker.RegistryOpt{docker.WithPlainHTTP(docker.MatchLocalhost)}
	if creds := b.config.Credentials; creds != nil {
		opts = append(opts, docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthCreds(creds))))
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(opts...)})
}

// pull reports how the layers of an image get on.
type pull struct {
	store  content.Store
	report func(core.Progress)

	mu     sync.Mutex
	layers []ocispec.Descriptor
}

// see is called for everything that an image consists of.
func (p *pull) see(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if images.IsLayerType(d.MediaType) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.layers = append(p.layers, d)
		p.say(d, "Pulling fs layer", 0)
	}
	return nil, nil
}

func (p *pull) say(d ocispec.Descriptor, status string, current int64) {
	if p.report != nil {
		p.report(core.Progress{ID: d.Digest.Encoded()[:12], Status: status, Current: current, Total: d.Size})
	}
}

// watchInterval is the time between two reports of what is being downloaded.
const watchInterval = 200 * time.Millisecond

// watch asks containerd again and again how far layers are. What it returns ends that.
func (p *pull) watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for p.report != nil {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				p.look(ctx)
			}
		}
	}()
	return func() { cancel(); <-ended }
}

func (p *pull) look(ctx context.Context) {
	active, err := p.store.ListStatuses(ctx)
	if err != nil {
		return // the pull itself will say what is wrong
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.layers {
		for _, s := range active {
			if s.Ref == remotes.MakeRefKey(ctx, d) {
				p.say(d, "Downloading", s.Offset)
			}
		}
	}
}

func (p *pull) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.layers {
		p.say(d, "Pull complete", d.Size)
	}
	if p.report != nil {
		p.report(core.Progress{Status: "Image pulled successfully"})
	}
}

// Push implements core.Pusher.
func (i *image) Push(ctx context.Context) error {
	img, err := i.b.image(ctx, i.name)
	if err != nil {
		return err
	}
	return i.b.client.Push(i.b.in(ctx), img.Name(), img.Target(), client.WithResolver(i.b.resolver()))
}

// Build implements core.Image. cairn builds, in the store that the configuration names, and containerd gets the result.
func (i *image) Build(ctx context.Context, input *core.DockerfileBuild) error {
	n, err := i.b.builder()
	if err != nil {
		return err
	}
	ref, err := full(i.name)
	if err != nil {
		return err
	}
	if err := n.Image(ref).Build(ctx, input); err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(n.Save(ctx, []string{ref}, w)) }()
	ctx = i.b.in(ctx)
	got, err := i.b.client.Import(ctx, r)
	err = errors.Join(err, r.Close())
	if err != nil {
		return fmt.Errorf("handing %s to containerd: %w", i.name, err)
	}
	for _, g := range got {
		if err := client.NewImage(i.b.client, g).Unpack(ctx, i.b.config.Snapshotter); err != nil {
			return fmt.Errorf("handing %s to containerd: %w", i.name, err)
		}
	}
	return nil
}

// Remove implements core.Image.
func (i *image) Remove(ctx context.Context) error {
	ref, err := full(i.name)
	if err != nil {
		return err
	}
	return i.b.client.ImageService().Delete(i.b.in(ctx), ref, images.SynchronousDelete())
}

// Digest implements core.Image.
func (i *image) Digest(ctx context.Context) (string, error) {
	img, err := i.b.image(ctx, i.name)
	if err != nil {
		return "", err
	}
	return img.Target().Digest.Encoded(), nil
}

// Tags implements core.Image.
func (i *image) Tags(ctx context.Context) ([]string, error) {
	img, err := i.b.image(ctx, i.name)
	if err != nil {
		return nil, err
	}
	same, err := i.b.client.ImageService().List(i.b.in(ctx), "target.digest=="+img.Target().Digest.String())
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, s := range same {
		tags = append(tags, familiar(s.Name))
	}
	return tags, nil
}

// familiar is a name as Docker shows it.
func familiar(name string) string {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

// Clean implements core.Backend. The age of an image is the time since it came to containerd under its name.
func (b *Backend) Clean(ctx context.Context, age time.Duration, ref string) error {
	ctx = b.in(ctx)
	list, err := b.client.ImageService().List(ctx)
	if err != nil {
		return err
	}
	limit := time.Now().Add(-age)
	var errs []error
	for _, img := range list {
		if !img.CreatedAt.Before(limit) || ref != "" && !matches(ref, img.Name) {
			continue
		}
		if err := b.client.ImageService().Delete(ctx, img.Name, images.SynchronousDelete()); err != nil {
			errs = append(errs, fmt.Errorf("removing image %s: %w", img.Name, err))
		}
	}
	return errors.Join(errs...)
}

// matches compares a name as docker images --filter reference does: a pattern without a tag means every tag.
func matches(pattern, name string) bool {
	shown := familiar(name)
	repository := shown
	if i := strings.LastIndex(shown, ":"); i > strings.LastIndex(shown, "/") {
		repository = shown[:i]
	}
	for _, n := range []string{shown, repository, name} {
		if ok, err := path.Match(pattern, n); ok && err == nil {
			return true
		}
	}
	n, err := full(pattern)
	return err == nil && n == name
}
