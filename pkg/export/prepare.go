package export

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// parallelRewrites is how many layers are rewritten at once.
const parallelRewrites = 2

// assemble makes the image as this output wants it: with its compression, times, media types and annotations.
func (e *exporter) assemble(ctx context.Context) (image.Set, error) {
	as := slices.Clone(e.Annotations)
	for _, k := range sortedKeys(e.Attrs) {
		a, ok, err := image.ParseAnnotationAttr(k, e.Attrs[k])
		if err != nil {
			return image.Set{}, err
		}
		if ok {
			as = append(as, a)
		}
	}
	specs, err := e.rewrite(ctx)
	if err != nil {
		return image.Set{}, err
	}
	set, err := image.Assemble(specs, image.Options{
		Epoch: e.Epoch, DockerMediaTypes: !e.flag(attrOCITypes, true), Annotations: as, Fields: e.Fields, Index: e.Index,
	})
	if err != nil {
		return image.Set{}, err
	}
	for _, b := range set.Images {
		e.say("manifest %s", b.Descriptor.Digest)
		e.say("config %s", b.ConfigDescriptor.Digest)
	}
	if set.Index != nil {
		e.say("index %s", set.Descriptor.Digest)
	}
	return set, nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// rewrite returns the specs with those layers replaced that the output wants in another form.
func (e *exporter) rewrite(ctx context.Context) ([]image.Spec, error) {
	if e.flag(attrRewriteTimestamp, false) && !e.stamp {
		// BuildKit goes on as well: a SOURCE_DATE_EPOCH=context whose context has no time is no mistake of the command line.
		e.vertex.Warn(progress.Warning{Rule: "RewriteTimestamp", Message: "rewrite-timestamp=true does nothing without a SOURCE_DATE_EPOCH"})
	}
	specs := slices.Clone(e.Images)
	g, ctx := errgroup.WithContext(ctx)
	for i := range specs {
		specs[i].Base = slices.Clone(specs[i].Base)
		specs[i].Layers = slices.Clone(specs[i].Layers)
		for j, l := range specs[i].Base {
			g.Go(func() (err error) {
				specs[i].Base[j], err = e.form(ctx, e.vertex, l, true)
				return err
			})
		}
		for j, l := range specs[i].Layers {
			g.Go(func() (err error) {
				specs[i].Layers[j].Layer, err = e.form(ctx, e.vertex, l.Layer, false)
				return err
			})
		}
	}
	return specs, g.Wait()
}

// formKey is a layer that an output may want in another form.
type formKey struct {
	blob digest.Digest
	base bool
}

// rewrites reports whether the output wants a layer in another form. rewrite-timestamp is for what was built, as are compression and
// compression-level; the base image's layers are left alone but for force-compression (BuildKit, docs/build-repro.md).
func (e *exporter) rewrites(l layer.Layer, base bool) bool {
	same := typeOf(l) == e.want.typ && e.want.level == nil
	if base {
		return e.want.force && !same
	}
	return e.stamp || e.want.typ != "" && (!same || e.want.force)
}

// form is a layer as the output wants it. It is rewritten once, however often it is asked for.
func (e *exporter) form(ctx context.Context, v *progress.Vertex, l layer.Layer, base bool) (layer.Layer, error) {
	if !e.rewrites(l, base) {
		return l, nil
	}
	return e.forms.do(ctx, formKey{l.Descriptor.Digest, base}, func() (layer.Layer, error) {
		release, err := e.rewriting.take(ctx)
		if err != nil {
			return layer.Layer{}, err
		}
		defer release()
		out, err := e.rewriteLayer(ctx, l, e.stamp && !base)
		if err == nil {
			fmt.Fprintf(v.Stdout(), "rewrote layer %s as %s\n", shortDigest(l.Descriptor.Digest), shortDigest(out.Descriptor.Digest))
		}
		return out, err
	})
}

// typeOf is the compression of a layer's blob, by its media type and what is said of it.
func typeOf(l layer.Layer) string {
	switch mt := l.Descriptor.MediaType; {
	case l.Descriptor.Annotations[layer.SeekableAnnotations()[0]] != "":
		return "estargz"
	case strings.HasSuffix(mt, "zstd"):
		return "zstd"
	case strings.HasSuffix(mt, "gzip"):
		return "gzip"
	}
	return "uncompressed"
}

// rewriteLayer compresses a layer anew and, with stamp, lowers its times to the epoch. The new blob is kept in the store.
// Without stamp the archive, and so the DiffID, stays what it is; but for eStargz, whose table of contents is in the archive.
func (e *exporter) rewriteLayer(ctx context.Context, l layer.Layer, stamp bool) (layer.Layer, error) {
	how := layer.Compression{Type: e.want.typ}
	if how.Type == "" {
		how.Type = typeOf(l)
	}
	if e.want.level != nil {
		how.Level = *e.want.level
	}
	src, err := e.Blob(ctx, l)
	if err != nil {
		return layer.Layer{}, fmt.Errorf("reading blob %s: %w", l.Descriptor.Digest, err)
	}
	defer src.Close()
	dst, err := e.Store.NewBlob(ctx)
	if err != nil {
		return layer.Layer{}, err
	}
	defer dst.Abort()
	rewritten := layer.Recompress
	if stamp {
		rewritten = e.clamp
	}
	out, err := rewritten(ctx, src, l, dst, how)
	if err != nil {
		return layer.Layer{}, err
	}
	d, err := dst.Commit("")
	if err != nil {
		return layer.Layer{}, err
	}
	out.Descriptor.Digest, out.Descriptor.Size = d.Digest, d.Size
	return out, nil
}

// clamp is layer.Recompress with no time later than the epoch.
func (e *exporter) clamp(ctx context.Context, src io.Reader, l layer.Layer, dst io.Writer, how layer.Compression) (out layer.Layer, err error) {
	w, err := layer.NewWriter(dst, how)
	if err != nil {
		return layer.Layer{}, err
	}
	defer w.Abort()
	w.Clamp, w.Temp = e.Epoch, e.Store.TempFile
	if err := layer.Rewrite(ctx, src, l, w); err != nil {
		return layer.Layer{}, err
	}
	out.DiffID, out.Descriptor.MediaType, _, err = w.Close()
	out.Descriptor.Annotations = w.Annotations()
	return out, err
}
