package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MakeImageCache implements ImageCacheBuilder.
func (b *local) MakeImageCache(ctx context.Context, cacheFrom []string) (ImageCache, error) {
	c := &localCache{b: b}
	if len(cacheFrom) == 0 {
		return c, nil
	}
	from := &sourceCache{local: c}
	for _, ref := range cacheFrom {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("making an image cache: %w", context.Cause(ctx))
		}
		img, _, err := b.find(ref, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("making an image cache: %w", err)
		}
		from.sources = append(from.sources, img)
	}
	return from, nil
}

// localCache finds images that were built here from a parent.
type localCache struct{ b *local }

// GetCache implements ImageCache. Of several images the newest is taken.
func (c *localCache) GetCache(parentID string, cfg *container.Config, platform ocispec.Platform) (string, error) {
	if cfg == nil {
		return "", nil
	}
	var found *image.Image
	for _, id := range c.b.children(image.ID(parentID)) {
		img, err := c.b.images.Get(id)
		if err != nil {
			return "", fmt.Errorf("looking for a cached image: %w", err)
		}
		built, err := c.b.images.IsBuiltLocally(id)
		if err != nil || !built || img.OS == "" && img.Architecture == "" || img.Created == nil {
			continue
		}
		if !platforms.Only(platform).Match(img.Platform()) || !sameConfig(&img.ContainerConfig, cfg) {
			continue
		}
		if found == nil || found.Created.Before(*img.Created) {
			found = img
		}
	}
	if found == nil {
		return "", nil
	}
	return found.ImageID(), nil
}

// children are the images made from a parent; of "" those that have none.
func (b *local) children(parent image.ID) []image.ID {
	if parent != "" {
		return b.images.Children(parent)
	}
	var out []image.ID
	for id := range b.images.Map() {
		if p, err := b.images.GetParent(id); err != nil || p == "" {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// sameConfig compares configs but for what is a single container's.
func sameConfig(a, b *container.Config) bool {
	return reflect.DeepEqual(bare(*a), bare(*b))
}

// bare blanks what does not count, and makes nil of what is empty.
func bare(c container.Config) container.Config {
	c.Image, c.Hostname, c.Domainname = "", "", ""
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); (f.Kind() == reflect.Slice || f.Kind() == reflect.Map) && f.Len() == 0 {
			f.SetZero()
		}
	}
	return c
}

// sourceCache finds images that lead to those of --cache-from, by their history.
type sourceCache struct {
	local   *localCache
	sources []*image.Image
}

// GetCache implements ImageCache. After the first hit it stays with the image that it came from.
func (c *sourceCache) GetCache(parentID string, cfg *container.Config, platform ocispec.Platform) (string, error) {
	if cfg == nil {
		return "", nil
	}
	id, err := c.local.GetCache(parentID, cfg, platform)
	if err != nil {
		return "", err
	}
	if id != "" && slices.ContainsFunc(c.sources, func(s *image.Image) bool { return c.leadsTo(image.ID(id), s.ID()) }) {
		return id, nil
	}
	var parent *image.Image
	if parentID != "" {
		if parent, err = c.local.b.images.Get(image.ID(parentID)); err != nil {
			return "", fmt.Errorf("looking for a cached image: %w", err)
		}
	}
	for _, s := range c.sources {
		if !continues(s, parent) {
			continue
		}
		n := 0
		if parent != nil {
			n = len(parent.History)
		}
		if strings.Join(cfg.Cmd, " ") != s.History[n].CreatedBy {
			continue
		}
		hit, err := c.take(s, parent, n, cfg)
		if err != nil {
			return "", fmt.Errorf("taking a step of image %s from the cache: %w", s.ID(), err)
		}
		return hit.String(), nil
	}
	return "", nil
}

// leadsTo reports whether an image is a source, or one of its ancestors.
func (c *sourceCache) leadsTo(id, source image.ID) bool {
	for at, n := source, 0; at != "" && n < 1000; n++ { // a circle would be somebody's mistake
		if at == id {
			return true
		}
		next, err := c.local.b.images.GetParent(at)
		if err != nil {
			return false
		}
		at = next
	}
	return false
}

// continues reports whether an image could have been made from parent by at least one more step.
func continues(img, parent *image.Image) bool {
	if parent == nil {
		return len(img.History) > 0
	}
	if len(parent.History) >= len(img.History) || len(diffIDs(parent)) > len(diffIDs(img)) {
		return false
	}
	return reflect.DeepEqual(append([]image.History{}, parent.History...), append([]image.History{}, img.History[:len(parent.History)]...)) &&
		slices.Equal(diffIDs(parent), diffIDs(img)[:len(diffIDs(parent))])
}

func diffIDs(img *image.Image) []digest.Digest {
	if img.RootFS == nil {
		return nil
	}
	return img.RootFS.DiffIDs
}

// take makes an image of step n of a source: the source itself for its last step, or else one with the history and layers so far.
func (c *sourceCache) take(s, parent *image.Image, n int, cfg *container.Config) (image.ID, error) {
	store := c.local.b.images
	if n == len(s.History)-1 {
		if parent == nil {
			return s.ID(), nil
		}
		return s.ID(), store.SetParent(s.ID(), parent.ID())
	}
	layers := 0
	for _, h := range s.History[:n+1] {
		if !h.EmptyLayer {
			layers++
		}
	}
	if layers > len(diffIDs(s)) {
		return "", errors.New("its history names more layers than it has")
	}
	rootFS := image.NewRootFS()
	for _, d := range diffIDs(s)[:layers] {
		rootFS.Append(d)
	}
	img := image.Image{
		V1Image: image.V1Image{Config: cfg, Architecture: s.Architecture, Variant: s.Variant, OS: s.OS, Author: s.Author, Created: s.History[n].Created},
		RootFS:  rootFS, History: slices.Clone(s.History[:n+1]), OSFeatures: s.OSFeatures, OSVersion: s.OSVersion,
	}
	config, err := img.MarshalJSON()
	if err != nil {
		return "", err
	}
	id, err := store.Create(config)
	if err != nil {
		return "", err
	}
	if parent != nil {
		if err := store.SetParent(id, parent.ID()); err != nil {
			return "", err
		}
	}
	c.sources = []*image.Image{s}
	return id, nil
}
