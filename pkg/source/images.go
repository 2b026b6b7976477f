package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	imageScheme  = "docker-image://"
	layoutScheme = "oci-layout://"
)

// ImagesOptions are what images are found with.
type ImagesOptions struct {
	Store    *store.Store
	Registry *registry.Client
	// Pull asks the registry also for names that the store has an image for.
	Pull bool
	// Offline asks no registry: a tag means what it meant when it was last resolved.
	Offline bool
	// Limits bound what a layer may cost to read.
	Limits layer.Limits
}

// Images resolves and reads images: by reference from registries or the local store, from OCI layouts, and docker-image:// and
// oci-layout:// contexts. It implements plan.ImageResolver; one reference is resolved once in a build. It is safe for concurrent use.
type Images struct {
	o     ImagesOptions
	roots once[string, document]
	found once[string, plan.ResolvedImage]
	index once[digest.Digest, *layer.Index]

	mu    sync.Mutex
	local map[digest.Digest]bool   // manifests that a name of the store stands for
	blobs map[digest.Digest]*fetch // under way
}

// NewImages returns the images that are reached by o.
func NewImages(o ImagesOptions) *Images {
	if o.Limits.Temp == nil && o.Store != nil {
		o.Limits.Temp = o.Store.TempFile
	}
	return &Images{o: o, local: map[digest.Digest]bool{}, blobs: map[digest.Digest]*fetch{}}
}

// document is a manifest or index and where its parts are.
type document struct {
	desc ocispec.Descriptor
	body []byte
	from place
}

// place is where the content of an image is: an OCI layout, or a repository. The store may have copies.
type place struct {
	repo   string
	layout *layout
}

// ResolveImage implements plan.ImageResolver. ref is a reference as Docker reads them, or the URL of a docker-image:// or oci-layout://
// context; the latter reads local files, so it must come from the command line, never from a Dockerfile. Of an index, the manifest
// that fits platform best is taken; an image without an index is taken as it is. A tag that the store has an image for means that
// image if its platform fits, unless Pull is set; other tags are asked of the registry each build.
func (im *Images) ResolveImage(ctx context.Context, ref string, platform ocispec.Platform) (plan.ResolvedImage, error) {
	platform = platforms.Normalize(platform)
	key := platforms.FormatAll(platform) + " " + ref
	return im.found.do(ctx, key, func() (plan.ResolvedImage, error) {
		if path, ok := strings.CutPrefix(ref, layoutScheme); ok {
			return im.resolveLayout(ctx, path, platform)
		}
		n, err := reference.ParseNormalizedNamed(strings.TrimPrefix(ref, imageScheme))
		if err != nil {
			return plan.ResolvedImage{}, fmt.Errorf("parsing reference %q: %w", ref, err)
		}
		return im.resolveNamed(ctx, reference.TagNameOnly(n), platform)
	})
}

func (im *Images) resolveNamed(ctx context.Context, n reference.Named, platform ocispec.Platform) (plan.ResolvedImage, error) {
	if d, ok := n.(reference.Digested); ok {
		if _, err := pathOf(d.Digest()); err != nil {
			return plan.ResolvedImage{}, fmt.Errorf("resolving %s: %w", n, err)
		}
	}
	if img, ok, err := im.fromStore(ctx, n, platform); ok || err != nil {
		return img, err
	}
	doc, err := im.root(ctx, n)
	if err != nil {
		return plan.ResolvedImage{}, err
	}
	img, err := im.pick(ctx, doc, platform)
	if err != nil {
		return plan.ResolvedImage{}, fmt.Errorf("resolving %s: %w", n, err)
	}
	img.Ref = n.String()
	return img, nil
}

// fromStore looks for an image that was built or pulled under this name. One for another platform is passed over. One that cannot be read is an
// error: asking a registry instead could run a stranger's image of that name in the place of the user's own.
func (im *Images) fromStore(ctx context.Context, n reference.Named, platform ocispec.Platform) (plan.ResolvedImage, bool, error) {
	if _, ok := n.(reference.Digested); ok || im.o.Pull && !im.o.Offline {
		return plan.ResolvedImage{}, false, nil
	}
	desc, err := im.o.Store.Ref(n.String())
	if errors.Is(err, fs.ErrNotExist) {
		return plan.ResolvedImage{}, false, nil
	}
	if err != nil {
		return plan.ResolvedImage{}, false, fmt.Errorf("resolving %s: %w", n, err)
	}
	body, err := im.o.Store.ReadBlob(desc.Digest, registry.MaxManifest)
	if err != nil {
		return plan.ResolvedImage{}, false, fmt.Errorf("reading image %s of the local store, which can only be removed or built again: %w", n, err)
	}
	doc := document{desc: desc, body: body, from: place{repo: n.Name()}}
	img, err := im.pick(ctx, doc, platform)
	if errors.Is(err, store.ErrCorrupt) {
		return plan.ResolvedImage{}, false, fmt.Errorf("reading image %s of the local store: %w", n, err)
	}
	fits := platforms.Only(platform)
	if err != nil || !fits.Match(platforms.Normalize(img.Config.Platform)) {
		return plan.ResolvedImage{}, false, nil
	}
	im.mu.Lock()
	im.local[img.Digest] = true
	im.mu.Unlock()
	img.Ref = n.String()
	return img, true, nil
}

// tagBucket is the records of what tags meant when they were last resolved.
const tagBucket = "tags"

// root finds what a reference names: a manifest, or an index for several platforms.
func (im *Images) root(ctx context.Context, n reference.Named) (document, error) {
	return im.roots.do(ctx, n.String(), func() (document, error) {
		from := place{repo: n.Name()}
		if d, ok := n.(reference.Digested); ok {
			return im.manifest(ctx, from, d.Digest())
		}
		known, held := im.remembered(n)
		if im.o.Offline {
			if !held {
				return document{}, fmt.Errorf("resolving %s: offline, and it was never resolved here before", n)
			}
			known.from = from
			return known, nil
		}
		if held {
			// Asking whether the tag has moved is cheaper than fetching: registries that count pulls do not count it.
			if desc, err := im.o.Registry.Head(ctx, n.String()); err == nil && desc.Digest == known.desc.Digest {
				known.from = from
				return known, nil
			}
		}
		desc, body, err := im.o.Registry.Resolve(ctx, n.String())
		if err != nil {
			if held && !errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w; when it was last resolved it was %s@%s, which is held", err, n, known.desc.Digest)
			}
			return document{}, err
		}
		if err := im.keep(ctx, desc.MediaType, body); err != nil {
			return document{}, err
		}
		data, err := json.Marshal(desc)
		if err == nil {
			err = im.o.Store.PutCacheRecord(tagBucket, n.String(), data)
		}
		if err != nil {
			return document{}, fmt.Errorf("remembering %s: %w", n, err)
		}
		return document{desc: desc, body: body, from: from}, nil
	})
}

// remembered returns what a tag meant when it was last resolved, if that is still held.
func (im *Images) remembered(n reference.Named) (document, bool) {
	data, err := im.o.Store.Record(tagBucket, n.String())
	if err != nil {
		return document{}, false
	}
	var desc ocispec.Descriptor
	if json.Unmarshal(data, &desc) != nil {
		return document{}, false
	}
	body, err := im.o.Store.ReadBlob(desc.Digest, registry.MaxManifest)
	return document{desc: desc, body: body}, err == nil
}

// manifest returns the manifest or index with a digest: from the store, the layout or the registry.
func (im *Images) manifest(ctx context.Context, from place, d digest.Digest) (document, error) {
	body, err := im.o.Store.ReadBlob(d, registry.MaxManifest)
	if err == nil {
		mediaType, err := registry.CheckManifest("", body)
		if err != nil {
			return document{}, fmt.Errorf("reading manifest %s: %w", d, err)
		}
		return document{desc: ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}, body: body, from: from}, nil
	}
	var desc ocispec.Descriptor
	switch {
	case from.layout != nil:
		if body, err = from.layout.read(d, registry.MaxManifest); err != nil {
			return document{}, err
		}
		desc = ocispec.Descriptor{Digest: d, Size: int64(len(body))}
		if desc.MediaType, err = registry.CheckManifest("", body); err != nil {
			return document{}, fmt.Errorf("reading manifest %s: %w", d, err)
		}
	case im.o.Offline:
		return document{}, fmt.Errorf("reading manifest %s@%s: offline, and it is not held", from.repo, d)
	default:
		if desc, body, err = im.o.Registry.Resolve(ctx, from.repo+"@"+d.String()); err != nil {
			return document{}, err
		}
	}
	return document{desc: desc, body: body, from: from}, im.keep(ctx, desc.MediaType, body)
}

// config returns the config blob of a manifest.
func (im *Images) config(ctx context.Context, from place, desc ocispec.Descriptor) ([]byte, error) {
	data, err := im.o.Store.ReadBlob(desc.Digest, registry.MaxConfig)
	if err == nil {
		return data, nil
	}
	switch {
	case from.layout != nil:
		data, err = from.layout.read(desc.Digest, registry.MaxConfig)
	case im.o.Offline:
		err = fmt.Errorf("reading config %s of %s: offline, and it is not held", desc.Digest, from.repo)
	default:
		data, err = im.o.Registry.FetchSmall(ctx, from.repo, desc, registry.MaxConfig)
	}
	if err != nil {
		return nil, err
	}
	return data, im.keep(ctx, desc.MediaType, data)
}

func (im *Images) keep(ctx context.Context, mediaType string, data []byte) error {
	if _, err := im.o.Store.PutBlob(ctx, mediaType, data); err != nil {
		return fmt.Errorf("keeping what was fetched: %w", err)
	}
	return nil
}

// Layers returns the layers of a resolved image, bottom first. Nothing of them is fetched; those of an OCI layout are copied into the
// store, because a layout is not there for later builds to come back to.
func (im *Images) Layers(ctx context.Context, img plan.ResolvedImage) ([]layer.Layer, error) {
	var from place
	if path, ok := strings.CutPrefix(img.Ref, layoutScheme); ok {
		lay, err := openLayout(path)
		if err != nil {
			return nil, err
		}
		defer lay.close()
		from.layout = lay
	} else {
		n, err := reference.ParseNormalizedNamed(img.Ref)
		if err != nil {
			return nil, fmt.Errorf("reading layers of %q: %w", img.Ref, err)
		}
		from.repo = n.Name()
	}
	doc, err := im.manifest(ctx, from, img.Digest)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(doc.body)
	if err != nil {
		return nil, fmt.Errorf("reading manifest %s of %s: %w", img.Digest, img.Ref, err)
	}
	ids := img.Config.RootFS.DiffIDs
	if len(ids) != len(m.Layers) {
		return nil, fmt.Errorf("reading manifest %s of %s: it has %d layers, its config %d DiffIDs", img.Digest, img.Ref, len(m.Layers), len(ids))
	}
	layers := make([]layer.Layer, len(ids))
	for i, desc := range m.Layers {
		layers[i] = layer.Layer{DiffID: ids[i], Descriptor: desc, Origin: im.origin(img, ids[i], desc, from.repo)}
		if from.layout == nil {
			continue
		}
		if err := im.importBlob(ctx, from.layout, desc); err != nil {
			return nil, fmt.Errorf("reading layers of %s: %w", img.Ref, err)
		}
	}
	return layers, nil
}

// origin is where the blob of a layer can be fetched. What a name of the store stands for may never have been in the repository of that name; then
// it is what the store knows, which may be nothing.
func (im *Images) origin(img plan.ResolvedImage, id digest.Digest, desc ocispec.Descriptor, repo string) string {
	im.mu.Lock()
	local := im.local[img.Digest]
	im.mu.Unlock()
	if !local {
		return repo
	}
	if known, err := im.o.Store.Layer(id); err == nil && known.Descriptor.Digest == desc.Digest {
		return known.Origin
	}
	return ""
}

// Pull resolves a reference, fetches all blobs of the image for a platform and names it in the store. It returns the name and the
// descriptor of what it stands for now: the manifest of that platform.
func (im *Images) Pull(ctx context.Context, ref string, platform ocispec.Platform) (string, ocispec.Descriptor, error) {
	fail := func(err error) (string, ocispec.Descriptor, error) { return "", ocispec.Descriptor{}, err }
	img, err := im.ResolveImage(ctx, ref, platform)
	if err != nil {
		return fail(err)
	}
	layers, err := im.Layers(ctx, img)
	if err != nil {
		return fail(err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, l := range layers {
		g.Go(func() error {
			// The index is made on the way, and with it the DiffID checked.
			if _, err := im.Index(gctx, l); err != nil {
				return err
			}
			return im.Fetch(gctx, l)
		})
	}
	if err := g.Wait(); err != nil {
		return fail(fmt.Errorf("pulling %s: %w", img.Ref, err))
	}
	doc, err := im.manifest(ctx, place{}, img.Digest)
	if err != nil {
		return fail(err)
	}
	p := img.Config.Platform
	doc.desc.Platform = &p
	if err := im.o.Store.SetRef(img.Ref, doc.desc); err != nil {
		return fail(fmt.Errorf("naming %s: %w", img.Ref, err))
	}
	return img.Ref, doc.desc, nil
}

// once computes a value for each key once. A call that ends because its own caller gave up is not remembered, and those who waited for it try
// themselves.
type once[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]*promise[V]
}

type promise[V any] struct {
	done  chan struct{}
	value V
	err   error
	void  bool
}

func (o *once[K, V]) do(ctx context.Context, key K, fn func() (V, error)) (V, error) {
	for {
		o.mu.Lock()
		p, ok := o.m[key]
		if !ok {
			p = &promise[V]{done: make(chan struct{})}
			if o.m == nil {
				o.m = map[K]*promise[V]{}
			}
			o.m[key] = p
		}
		o.mu.Unlock()
		if !ok {
			p.value, p.err = fn()
			if p.err != nil {
				o.mu.Lock()
				p.void = ctx.Err() != nil
				delete(o.m, key)
				if !p.void {
					o.m[key] = p
				}
				o.mu.Unlock()
			}
			close(p.done)
			return p.value, p.err
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			var none V
			return none, context.Cause(ctx)
		}
		if !p.void {
			return p.value, p.err
		}
	}
}
