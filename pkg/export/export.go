// Package export delivers what was built: to registries, into the local store, as an OCI layout or docker tarball, or as the
// bare root filesystem in a tarball or directory.
//
//	Request { Specs } ─ attributes of the Output ─► rewritten layers? ─ image.Assemble ─► Set ─► push | store | oci | docker
//	                                                       layer.Tree of each platform ─► tar | local
//
// A Delivery does the part of it that concerns single layers, rewriting and sending, while the image is still being built.
//
// Nothing that is written is ever half there: files are written beside their place and renamed, an OCI directory gets its
// index last, a registry its manifest last. The same request gives the same bytes.
package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/store"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is what pushing needs of pkg/registry's Client.
type Registry interface {
	// PushBlob makes sure that a repository ("registry.example/team/app") has a blob.
	PushBlob(ctx context.Context, repo string, d ocispec.Descriptor, up registry.Upload) error
	// PushManifest puts a manifest or index under a tag or digest.
	PushManifest(ctx context.Context, ref, mediaType string, body []byte) error
}

// Deps are what exporting works with. Each output uses some of them; the others may be nil.
type Deps struct {
	Store    *store.Store
	Registry Registry
	// Blob opens the compressed bytes of a layer, verified, fetching them where they are not held.
	Blob func(ctx context.Context, l layer.Layer) (io.ReadCloser, error)
	// Tree returns the root filesystem that layers make, bottom first.
	Tree func(ctx context.Context, layers []layer.Layer) (layer.Tree, error)
	// Stdout is what Dest "-" means.
	Stdout io.Writer
	// Refused, if not nil, is told the error when a registry refuses a layer of an image that is still being built.
	Refused func(error)
}

// Request is what is to be exported.
type Request struct {
	// Number is which of a build's outputs it is for, from 0: what tells them apart in the progress.
	Number int
	// Images are one Spec for each platform.
	Images []image.Spec
	// Names are those of -t; those of an output's name= come after them.
	Names []string
	// Annotations are those of --annotation; those of an output come after them.
	Annotations image.Annotations
	// Epoch is SOURCE_DATE_EPOCH; nil if not set.
	Epoch *time.Time
	// Fields are further fields of the configs; see image.Options.
	Fields func(layers []layer.Layer) (map[string]json.RawMessage, error)
	// Index makes an index also of a single image.
	Index bool
}

// Check refuses outputs that cannot work for a build of n platforms under names, before anything is built.
func Check(outs []Output, names []string, n int, stdout io.Writer) error {
	toStdout := 0
	for _, o := range outs {
		if err := o.check(); err != nil {
			return fmt.Errorf("output type=%s: %w", o.Type, err)
		}
		own, err := o.names()
		if err != nil {
			return err
		}
		if o.pushes() && len(names)+len(own) == 0 {
			return fmt.Errorf("output type=%s: pushing needs a name: -t NAME, or name=NAME", o.Type)
		}
		if o.Type == TypeDocker && n > 1 {
			return errors.New("output type=docker holds one platform; type=oci holds several")
		}
		if o.Dest == Stdout {
			if toStdout++; toStdout > 1 {
				return errors.New("several outputs are to go to the standard output")
			}
			if isTerminal(stdout) {
				return fmt.Errorf("output type=%s: refusing to write to a terminal; redirect the standard output, or give dest=FILE", o.Type)
			}
		}
	}
	return nil
}

func (o Output) pushes() bool {
	return o.Type == TypeRegistry || (o.Type == TypeImage && o.flag(attrPush, false))
}

// Export delivers req, whose images are there, to one output.
func Export(ctx context.Context, o Output, req Request, d Deps) (Result, error) {
	x, err := Begin(ctx, o, req, d)
	if err != nil {
		return Result{}, err
	}
	defer x.Stop()
	return x.Finish(ctx, req.Images)
}

func vertexName(o Output) string {
	switch o.Type {
	case TypeOCI:
		return "exporting to oci image format"
	case TypeDocker:
		return "exporting to docker image format"
	case TypeTar:
		return "exporting to tarball"
	case TypeLocal:
		return "exporting to directory " + o.Dest
	}
	return "exporting to image"
}

// exporter is one export under way.
type exporter struct {
	Output
	Request
	Deps
	vertex *progress.Vertex

	// want is what the output says of compression; stamp is set where times are bounded by the epoch.
	want  compression
	stamp bool
	// forms are the layers as this output wants them, sent the blobs that a repository has.
	forms memo[formKey, layer.Layer]
	sent  memo[sentKey, struct{}]
	// rewriting and sending bound how many layers are rewritten, and how many blobs are on their way, at once.
	rewriting, sending slots
}

func newExporter(o Output, req Request, d Deps) (*exporter, error) {
	c, err := o.compression()
	if err != nil {
		return nil, err
	}
	return &exporter{
		Output: o, Request: req, Deps: d, want: c, stamp: o.flag(attrRewriteTimestamp, false) && req.Epoch != nil,
		rewriting: make(slots, parallelRewrites), sending: make(slots, parallelPushes),
	}, nil
}

func (e *exporter) run(ctx context.Context) (Result, error) {
	switch e.Type {
	case TypeTar:
		return Result{}, e.toFile(func(w io.Writer) error { return e.writeRootfs(ctx, w) })
	case TypeLocal:
		return Result{}, e.writeLocal(ctx)
	}
	set, err := e.assemble(ctx)
	if err != nil {
		return Result{}, err
	}
	names, err := e.allNames()
	if err != nil {
		return Result{}, err
	}
	res := Result{Set: set, Names: names}
	switch e.Type {
	case TypeOCI:
		if !e.flag(attrTar, true) {
			return res, e.writeOCIDir(ctx, set, names)
		}
		return res, e.toFile(func(w io.Writer) error { return e.writeOCITar(ctx, w, set, names) })
	case TypeDocker:
		if !e.flag(attrTar, true) {
			return res, e.writeOCIDir(ctx, set, names)
		}
		return res, e.toFile(func(w io.Writer) error { return e.writeDocker(ctx, w, set.Images[0], names) })
	}
	return res, e.toImage(ctx, set, names)
}

// toImage keeps the image in the local store (type=image) and pushes it if that is asked for.
func (e *exporter) toImage(ctx context.Context, set image.Set, names []string) error {
	if e.Type == TypeImage {
		local := names
		if e.flag(attrNameCanonical, false) {
			for _, n := range names {
				c, err := canonical(n, set.Descriptor.Digest)
				if err != nil {
					return err
				}
				local = append(slices.Clone(local), c)
			}
		}
		kept, err := image.NewLocal(e.Store).Put(ctx, set, local)
		if err != nil {
			return err
		}
		for _, n := range kept {
			e.say("naming to %s", n)
		}
	}
	if e.pushes() {
		return e.push(ctx, set, names)
	}
	return nil
}

// allNames are the names of the build and of the output, each once.
func (e *exporter) allNames() ([]string, error) {
	own, err := e.names()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range append(slices.Clone(e.Names), own...) {
		if n, err = image.Normalize(n); err != nil {
			return nil, err
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// toFile gives fill the output's file, or the standard output.
func (e *exporter) toFile(fill func(io.Writer) error) error {
	if e.Dest == Stdout {
		return fill(e.Stdout)
	}
	return replaceFile(e.Dest, fill)
}

// say shows a line of what is done.
func (e *exporter) say(format string, args ...any) {
	fmt.Fprintf(e.vertex.Stdout(), format+"\n", args...)
}
