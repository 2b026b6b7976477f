package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// GetImageAndReleasableLayer implements ImageBackend. An image that was pulled for another platform than asked for is returned with a
// warning on Output.
func (b *local) GetImageAndReleasableLayer(ctx context.Context, refOrID string, o GetImageAndLayerOptions) (Image, ROLayer, error) {
	if refOrID == "" {
		return nil, b.engine.Layer(nil), nil
	}
	if o.PullOption != PullOptionForcePull {
		img, chain, err := b.find(refOrID, o.Platform)
		if err == nil {
			return img, b.engine.Layer(chain), nil
		}
		if o.PullOption == PullOptionNoPull || !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, kinded(err)
		}
	}
	if err := b.pull(ctx, refOrID, o); err != nil {
		return nil, nil, kinded(err)
	}
	img, chain, err := b.find(refOrID, nil)
	if err != nil {
		return nil, nil, kinded(err)
	}
	if o.Platform != nil && !platforms.OnlyStrict(*o.Platform).Match(img.Platform()) && o.Output != nil {
		(&messages{w: o.Output}).say(jsonstream.Message{Status: fmt.Sprintf("warning: %s is for %s, not for %s",
			refOrID, platforms.FormatAll(img.Platform()), platforms.FormatAll(*o.Platform))})
	}
	return img, b.engine.Layer(chain), nil
}

// find looks an image up in the store. One for another platform than asked for is not found.
func (b *local) find(refOrID string, platform *ocispec.Platform) (*image.Image, []layer.Layer, error) {
	set, err := b.engine.Images().Get(refOrID)
	if err != nil {
		return nil, nil, err
	}
	fits := platforms.Default()
	if platform != nil {
		fits = platforms.Only(*platform)
	}
	for _, built := range set.Images {
		img, err := image.NewFromJSON(built.Config)
		if err != nil {
			return nil, nil, fmt.Errorf("reading image %s: %w", refOrID, err)
		}
		if (platform != nil || len(set.Images) > 1) && !fits.Match(img.Platform()) {
			continue
		}
		return img, built.Layers, nil
	}
	return nil, nil, fmt.Errorf("image %s is held for other platforms only: %w", refOrID, fs.ErrNotExist)
}

// pull fetches an image and names it in the store.
func (b *local) pull(ctx context.Context, ref string, o GetImageAndLayerOptions) error {
	client, err := b.engine.Client(credentials(o.AuthConfig))
	if err != nil {
		return err
	}
	defer client.Close()
	platform := platforms.DefaultSpec()
	if o.Platform != nil {
		platform = *o.Platform
	}
	if o.Output != nil {
		ctx = progress.With(ctx, &messages{w: o.Output})
	}
	_, _, err = b.engine.Remote(client, true).Pull(ctx, ref, platform)
	return err
}

// messages shows progress as Docker's JSON messages, one a line.
type messages struct {
	mu sync.Mutex
	w  io.Writer
}

// Event implements progress.Sink.
func (m *messages) Event(e progress.Event) {
	switch e.Kind {
	case progress.Started:
		m.say(jsonstream.Message{Status: e.Name})
	case progress.Counted:
		_, hex, _ := strings.Cut(e.Name, ":")
		m.say(jsonstream.Message{
			Status: "Downloading", ID: hex[:min(12, len(hex))], Progress: &jsonstream.Progress{Current: e.Current, Total: e.Total},
		})
	}
}

func (m *messages) say(msg jsonstream.Message) {
	data, err := json.Marshal(msg)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Progress that cannot be shown is no reason to fail.
	_, _ = m.w.Write(append(data, '\r', '\n'))
}

// dockerHubKey is what Docker calls its own registry where credentials are kept.
const dockerHubKey = "https://index.docker.io/v1/"

// credentials are an interpreter's, by registry.
type credentials map[string]registry.AuthConfig

// Resolve implements authn.Keychain.
func (c credentials) Resolve(r authn.Resource) (authn.Authenticator, error) {
	host := r.RegistryStr()
	keys := []string{host, "https://" + host, "http://" + host}
	if host == "index.docker.io" || host == "docker.io" || host == "registry-1.docker.io" {
		keys = append(keys, dockerHubKey, "docker.io")
	}
	for _, k := range keys {
		if a, ok := c[k]; ok {
			return authn.FromConfig(authn.AuthConfig{
				Username: a.Username, Password: a.Password, Auth: a.Auth, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}
