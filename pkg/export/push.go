package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// parallelPushes is how many blobs of one repository are on their way at once.
const parallelPushes = 5

// push sends an image under all names. A repository gets each blob once, whatever the number of its tags; a blob that
// another repository of the same registry has is mounted from there. Manifests go last, so that an image can be seen only
// when it is whole.
func (e *exporter) push(ctx context.Context, set image.Set, names []string) error {
	repos, refs, err := e.byRepository(set, names)
	if err != nil {
		return err
	}
	for i, repo := range repos {
		if err := e.pushBlobs(ctx, repo, repos[:i], set); err != nil {
			return saying(err, "pushing to %s", repo)
		}
		if err := e.pushManifests(ctx, repo, refs[repo], set); err != nil {
			return err
		}
		if err := e.remember(repo, set); err != nil {
			return err
		}
	}
	return nil
}

// byRepository returns the repositories in the order they are first named, and the references to push to each.
func (e *exporter) byRepository(set image.Set, names []string) ([]string, map[string][]string, error) {
	var repos []string
	refs := map[string][]string{}
	for _, n := range names {
		r, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return nil, nil, fmt.Errorf("reading image name %q: %w", n, err)
		}
		repo := r.Name()
		if _, ok := refs[repo]; !ok {
			repos = append(repos, repo)
		}
		ref := reference.TagNameOnly(r).String()
		if e.flag(attrPushByDigest, false) {
			ref = repo + "@" + set.Descriptor.Digest.String()
		}
		refs[repo] = append(refs[repo], ref)
	}
	return repos, refs, nil
}

func (e *exporter) pushBlobs(ctx context.Context, repo string, earlier []string, set image.Set) error {
	g, ctx := errgroup.WithContext(ctx)
	to := blobTo{repo: repo, earlier: earlier, vertex: e.vertex, open: e.Blob}
	for _, b := range set.Images {
		for _, l := range b.Layers {
			g.Go(func() error { return e.sendLayer(ctx, to, l) })
		}
		g.Go(func() error {
			return e.send(ctx, to, b.ConfigDescriptor, registry.Upload{MountFrom: earlier, Open: func() (io.ReadCloser, error) {
				return seekCloser{bytes.NewReader(b.Config)}, nil
			}})
		})
	}
	return g.Wait()
}

// blobTo is where blobs are sent.
type blobTo struct {
	repo string
	// earlier are the repositories that have got them before.
	earlier []string
	vertex  *progress.Vertex
	open    func(context.Context, layer.Layer) (io.ReadCloser, error)
}

// sentKey is a blob in a repository.
type sentKey struct {
	repo string
	blob digest.Digest
}

// sendLayer makes sure that a repository has a layer.
func (e *exporter) sendLayer(ctx context.Context, to blobTo, l layer.Layer) error {
	if len(l.Descriptor.URLs) > 0 { // a layer that may not be distributed is fetched from there (OCI, descriptor.md)
		return nil
	}
	from := to.earlier
	if l.Origin != "" {
		from = append([]string{l.Origin}, from...)
	}
	return e.send(ctx, to, l.Descriptor, registry.Upload{MountFrom: from, Open: func() (io.ReadCloser, error) { return to.open(ctx, l) }})
}

// send makes sure that a repository has a blob, once.
func (e *exporter) send(ctx context.Context, to blobTo, d ocispec.Descriptor, up registry.Upload) error {
	_, err := e.sent.do(ctx, sentKey{to.repo, d.Digest}, func() (none struct{}, _ error) {
		release, err := e.sending.take(ctx)
		if err != nil {
			return none, err
		}
		defer release()
		name := "pushing " + shortDigest(d.Digest)
		up.Progress = func(n int64) { to.vertex.Count(name, n, d.Size) }
		if err := e.Registry.PushBlob(ctx, to.repo, d, up); err != nil {
			return none, saying(err, "blob %s", d.Digest)
		}
		to.vertex.Count(name, d.Size, d.Size)
		return none, nil
	})
	return err
}

// saying adds to an error what was pushed where, unless it is one of the registry, which says so itself.
func saying(err error, format string, args ...any) error {
	if r, ok := errors.AsType[*registry.Error](err); ok && r.Op == "pushing" {
		return err
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// seekCloser is a small blob: being an io.Seeker it can be sent again from any place.
type seekCloser struct{ *bytes.Reader }

func (seekCloser) Close() error { return nil }

func (e *exporter) pushManifests(ctx context.Context, repo string, refs []string, set image.Set) error {
	body := set.Index
	if body == nil {
		body = set.Images[0].Manifest
	} else {
		for _, b := range set.Images {
			if err := e.Registry.PushManifest(ctx, repo+"@"+b.Descriptor.Digest.String(), b.Descriptor.MediaType, b.Manifest); err != nil {
				return saying(err, "pushing manifest %s", b.Descriptor.Digest)
			}
		}
	}
	for _, ref := range refs {
		if err := e.Registry.PushManifest(ctx, ref, set.Descriptor.MediaType, body); err != nil {
			return saying(err, "pushing %s", ref)
		}
		e.say("pushed %s, digest %s", ref, set.Descriptor.Digest)
	}
	return nil
}

// remember notes where layers that were made here can be mounted from the next time.
func (e *exporter) remember(repo string, set image.Set) error {
	if e.Store == nil {
		return nil
	}
	for _, b := range set.Images {
		for _, l := range b.Layers {
			if l.Origin != "" {
				continue
			}
			l.Origin = repo
			if err := e.Store.PutLayer(l, nil); err != nil {
				return fmt.Errorf("remembering where layer %s is: %w", l.DiffID, err)
			}
		}
	}
	return nil
}

// canonical is a name without its tag and with a digest.
func canonical(name string, d digest.Digest) (string, error) {
	r, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("reading image name %q: %w", name, err)
	}
	return r.Name() + "@" + d.String(), nil
}

func shortDigest(d digest.Digest) string {
	enc := d.Encoded()
	return d.Algorithm().String() + ":" + enc[:min(12, len(enc))]
}
