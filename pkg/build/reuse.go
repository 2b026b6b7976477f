package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/solve"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
)

// ShareOptions say where cache records come from and go to besides the local store.
type ShareOptions struct {
	// From are asked in order for what the local store does not know. One that cannot be had is a warning.
	From []cache.Location
	// To get the records of the build when the image has been delivered.
	To []cache.Location
	// MountsFrom fill the directories of cache mounts that are new here, MountsTo get those of the build.
	MountsFrom, MountsTo []cache.Location
	// Explain says of every step whether it was found, and of a miss why. Expect makes a miss an error, *cache.MissError.
	Explain bool
	Expect  Expectation
}

// reuse is the cache as one build uses it.
type reuse struct {
	options  Options
	local    *cache.Cache
	imports  *cache.Imports
	images   *knownImages
	mounts   *sharedMounts
	recorder *cache.Recorder
	// opening are the imports on their way; cancel ends them.
	opening sync.WaitGroup
	cancel  context.CancelFunc
	// damaged counts the attempts that found damaged content in the store.
	damaged int
}

// maxDamaged is how often a build starts again because the store held something damaged. What was found is gone each time, and is
// made or fetched again.
const maxDamaged = 20

// openReuse puts the cache of a build together. Nothing is fetched before a step needs it.
func openReuse(ctx context.Context, in *inputs, o Options) *reuse {
	r := &reuse{options: o}
	ctx, r.cancel = context.WithCancel(ctx)
	trusted := make([]string, 0, len(o.Share.From))
	opened := make([]chan *cache.Import, len(o.Share.From))
	start := sync.OnceFunc(func() {
		for i, l := range o.Share.From {
			r.opening.Go(func() { opened[i] <- openImport(ctx, l, o) })
		}
	})
	var from []func() *cache.Import
	for i, l := range o.Share.From {
		trusted = append(trusted, l.Name())
		opened[i] = make(chan *cache.Import, 1)
		from = append(from, sync.OnceValue(func() *cache.Import {
			start() // all at once: most builds that need the first need the others too
			return <-opened[i]
		}))
	}
	r.local = in.cache.For(cache.Build{Project: project(o.Input), Trusted: trusted})
	r.imports = cache.NewImports(r.local, from, o.Parts.Images)
	r.mounts = openMounts(ctx, o)
	r.images = &knownImages{Images: o.Parts.Images, imports: r.imports}
	return r
}

// project tells this Dockerfile from others on the machine, for explanations.
func project(in Input) string {
	dir := in.Context
	if abs, err := filepath.Abs(dir); err == nil && dir != "-" && !strings.Contains(dir, "://") {
		dir = abs
	}
	return dir + "\x00" + in.Dockerfile
}

// close ends what is still being fetched and waits for it.
func (r *reuse) close() {
	r.cancel()
	r.opening.Wait()
}

// openImport opens an import. One that cannot be had is no reason to fail: the build only takes longer.
func openImport(ctx context.Context, l cache.Location, o Options) *cache.Import {
	v := progress.Start(ctx, "cache-from/"+l.Type+"/"+l.String(), "importing cache from "+l.String())
	im, err := cache.OpenImport(ctx, l, cache.ImportOptions{Registry: o.Parts.Registry, Store: o.Parts.Store})
	if err != nil {
		v.Warn(progress.Warning{Rule: "CacheImport", Message: err.Error()})
	} else {
		fmt.Fprintf(v.Stdout(), "%d records, %d bytes\n", im.Len(), im.Size())
	}
	v.Done(nil)
	return im
}

// begin starts an attempt at the build.
func (r *reuse) begin() { r.recorder = cache.NewRecorder(r.imports, r.recorderOptions()) }

// again reports whether an attempt failed because of something imported. What is wrong is not believed any more, and the step is carried out
// in the next attempt; what is here by then is not made twice.
func (r *reuse) again(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil {
		return false
	}
	from, again := r.imports.Refuse(err)
	if !again && errors.Is(err, store.ErrCorrupt) && r.damaged < maxDamaged {
		r.damaged++
		again = true
	}
	if !again {
		return false
	}
	v := progress.Start(ctx, "cache refused "+err.Error(), "[internal] refusing cached layers")
	text := "a layer that the local cache knows of cannot be had and is made again: " + err.Error()
	if from != "" {
		text = "the cache at " + from + " is not used any more: " + err.Error()
	}
	v.Warn(progress.Warning{Rule: "CacheRefused", Message: text})
	v.Done(nil)
	return true
}

// prove makes sure of the layers whose bytes go into outputs that cannot be taken back.
func (r *reuse) prove(ctx context.Context, results []*solve.Result) error {
	need := false
	for _, out := range r.options.Result.Outputs {
		need = need || out.HoldsLayers()
	}
	if !need {
		return nil
	}
	return r.imports.Prove(ctx, allLayers(results))
}

func allLayers(results []*solve.Result) (out []layer.Layer) {
	for _, res := range results {
		out = append(out, res.Layers()...)
	}
	return out
}

// fields adds the inline cache to the config of an image, if the user wants one.
func (r *reuse) fields() func([]layer.Layer) (map[string]json.RawMessage, error) {
	if !slices.ContainsFunc(r.options.Share.To, func(l cache.Location) bool { return l.Type == cache.TypeInline }) {
		return nil
	}
	return func(layers []layer.Layer) (map[string]json.RawMessage, error) {
		data, err := cache.Inline(r.recorder.Used(), layers)
		if err != nil || data == nil {
			return nil, err
		}
		return map[string]json.RawMessage{cache.InlineField: data}, nil
	}
}

// export writes the records to where the user wants them.
func (r *reuse) export(ctx context.Context, results []*solve.Result) error {
	content := cache.Content{Steps: r.recorder, Image: allLayers(results), Bases: r.images.all()}
	for _, l := range r.options.Share.To {
		if l.Type == cache.TypeInline {
			continue // it is part of the image
		}
		if err := r.exportTo(ctx, l, content); err != nil {
			return err
		}
	}
	return nil
}

func (r *reuse) exportTo(ctx context.Context, l cache.Location, c cache.Content) error {
	v := progress.Start(ctx, "cache-to/"+l.Type+"/"+l.String(), "exporting cache to "+l.String())
	out, err := cache.Export(ctx, l, c, cache.ExportOptions{
		Registry: r.options.Parts.Registry, Store: r.options.Parts.Store, Imports: r.imports, Progress: v.Count,
	})
	if err != nil && l.IgnoreError && ctx.Err() == nil {
		v.Warn(progress.Warning{Rule: "CacheExport", Message: err.Error()})
		err = nil
	} else if err == nil {
		fmt.Fprintf(v.Stdout(), "%d records, %d layers, manifest %s\n", out.Records, out.Layers, out.Descriptor.Digest)
	}
	v.Done(err)
	return err
}

// knownImages are the images of a build, whose layers' indexes may be imported. It remembers the layers of all that were asked for.
type knownImages struct {
	*source.Images
	imports *cache.Imports

	mu    sync.Mutex
	bases []layer.Layer
}

// Layers implements solve.Images.
func (k *knownImages) Layers(ctx context.Context, img plan.ResolvedImage) ([]layer.Layer, error) {
	layers, err := k.Images.Layers(ctx, img)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bases = append(k.bases, layers...)
	return layers, err
}

// Index implements solve.Images.
func (k *knownImages) Index(ctx context.Context, l layer.Layer) (*layer.Index, error) {
	return k.imports.Index(ctx, l)
}

// Blob implements solve.Images.
func (k *knownImages) Blob(ctx context.Context, l layer.Layer) (io.ReadCloser, error) {
	return k.imports.Blob(ctx, l)
}

func (k *knownImages) all() []layer.Layer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]layer.Layer(nil), k.bases...)
}
