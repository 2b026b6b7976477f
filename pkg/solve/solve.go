// Package solve walks a plan: each step is answered from the cache or carried out, and what comes out are layers.
//
// Stages run at once where they do not need each other; the steps of one stage follow each other. A stage that runs no
// command is never unpacked: COPY, ADD and WORKDIR look at the files of a stage through the indexes of its layers and write
// their layer straight into the store. Only RUN asks the snapshotter for a mounted root filesystem.
package solve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/secret"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
	"golang.org/x/sync/errgroup"
)

// Images gives the bytes of base images. It is implemented by source.Images.
type Images interface {
	// Layers returns the layers of an image, bottom first, fetching nothing.
	Layers(ctx context.Context, img plan.ResolvedImage) ([]layer.Layer, error)
	// Index returns the index of any layer that the store or a registry holds.
	Index(ctx context.Context, l layer.Layer) (*layer.Index, error)
	// Blob returns the verified compressed bytes of a layer.
	Blob(ctx context.Context, l layer.Layer) (io.ReadCloser, error)
}

// Contexts opens build contexts and remote files. It is implemented by package build over package source; a tree lives until
// the build ends.
type Contexts interface {
	// Context returns the files of the main context (Name "") or a named one.
	Context(ctx context.Context, c plan.Context) (layer.Tree, error)
	// Remote returns what one URL of an ADD brings: a git tree, or a tree with one file.
	Remote(ctx context.Context, r plan.Remote) (RemoteTree, error)
}

// RemoteTree is what a URL brought.
type RemoteTree struct {
	layer.Tree
	// Name is the only file of the tree; "" for a git tree, of which everything is copied.
	Name string
	// Identity stands for the content in keys, where set (copy.Source).
	Identity string
}

// RunOptions are the properties of every RUN that the command line sets.
type RunOptions struct {
	// Hostname is the sandbox's name; "" is the executor's default.
	Hostname string
	Hosts    []executor.Host
	Ulimits  []executor.Ulimit
	// ShmSize is in bytes; 0 is the default of 64 MiB.
	ShmSize int64
	Secrets map[string]secret.Value
	// AllowSecretInLayer lets a RUN leave a secret that it mounts in its layer, which fails otherwise.
	AllowSecretInLayer bool
	// SSH maps an id to the socket of an agent.
	SSH map[string]string
}

// CacheOptions say what may be answered from the cache, and how much is done at once.
type CacheOptions struct {
	// NoCache carries every step out; its result is still recorded. NoCacheFilter limits that to stages by name.
	NoCache       bool
	NoCacheFilter []string
	// Jobs is how many steps may work at once; 0 is no limit but the graph's. With 1 nothing else is done at once either;
	// otherwise up to two layers of a stage are compressed while its next steps run, and they count for nothing here.
	Jobs int
}

// Options is what a plan is solved with.
type Options struct {
	Store       *store.Store
	Cache       cache.Steps
	Images      Images
	Contexts    Contexts
	Snapshotter snapshot.Snapshotter
	Executor    executor.Executor
	Compression layer.Compression
	Run         RunOptions
	Reuse       CacheOptions
	// FillCache may put something into the new directory of a cache mount (--cache-mounts-from). Nil does nothing.
	FillCache func(ctx context.Context, id, dir string)
	// Offer, if not nil, is told of each layer that a target consists of as soon as it is there, whatever is still to be done; base is set for
	// those of its base image. It returns at once and is safe for concurrent use.
	Offer func(l layer.Layer, base bool)
}

// Made is a layer that a step made, now or in an earlier build.
type Made struct {
	Layer   layer.Layer
	Created time.Time
}

// Result is what became of a stage.
type Result struct {
	Stage *plan.Stage
	// Base are the layers of the image that the stage, or the lowest of the stages below it, starts from.
	Base []layer.Layer
	// Made are the layers of the stage's own steps, in their order.
	Made []Made
	// Below is the result of the stage this one starts from; nil if it starts from an image or from scratch.
	Below *Result
}

// Layers is the whole root filesystem, bottom first.
func (r *Result) Layers() []layer.Layer {
	var out []layer.Layer
	if r.Below != nil {
		out = r.Below.Layers()
	} else {
		out = append(out, r.Base...)
	}
	for _, m := range r.Made {
		out = append(out, m.Layer)
	}
	return out
}

// Of returns the layers of the steps of st, which is r's stage or one below it.
func (r *Result) Of(st *plan.Stage) []Made {
	for ; r != nil; r = r.Below {
		if r.Stage == st {
			return r.Made
		}
	}
	return nil
}

// Solve carries out plans, one for each platform, and returns what became of their targets. It stops at the first error.
func Solve(ctx context.Context, plans []*plan.Plan, o Options) ([]*Result, error) {
	s := &solver{Options: o, stages: map[*plan.Stage]*pending{}, inImage: map[*plan.Stage]bool{}, background: ctx}
	ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	if o.Reuse.Jobs > 0 {
		s.slots = make(chan struct{}, o.Reuse.Jobs)
	}
	for _, p := range plans {
		s.expect(p)
	}
	g, ctx := errgroup.WithContext(ctx)
	for st, pend := range s.stages {
		g.Go(func() error {
			defer close(pend.done)
			pend.result, pend.err = s.stage(ctx, pend.plan, st)
			return pend.err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, s.failure(err)
	}
	out := make([]*Result, len(plans))
	for i, p := range plans {
		out[i] = s.stages[p.Target()].result
	}
	return out, nil
}

// expect prepares for the stages of a plan.
func (s *solver) expect(p *plan.Plan) {
	for _, st := range p.Stages {
		s.stages[st] = &pending{plan: p, done: make(chan struct{})}
	}
	for st := p.Target(); st != nil && s.Offer != nil; st = st.Base.Stage {
		s.inImage[st] = true
	}
}

// solver is one run over plans.
type solver struct {
	Options
	slots  chan struct{}
	stages map[*plan.Stage]*pending
	// inImage are the stages whose layers are a target's too: itself and those it is built on.
	inImage map[*plan.Stage]bool
	// background is the context of what is finished although a step has failed: the layers that are there.
	background context.Context
	// cancel ends everything else. What only ends because of that is no failure of its own.
	cancel context.CancelCauseFunc
	mu     sync.Mutex
	// failures are why, the first of them first.
	failures []error
	// emulators is what was found out about programs for other machines.
	emulators emulators
}

// fail ends what all steps are doing.
func (s *solver) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failures) == 0 || !errors.Is(err, context.Canceled) {
		s.failures = append(s.failures, err)
	}
	s.cancel(err)
}

// failure is what the build has failed for: err, if nothing was before it.
func (s *solver) failure(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failures) == 0 {
		return err
	}
	return errors.Join(s.failures...)
}

// pending is a stage that is being solved.
type pending struct {
	plan   *plan.Plan
	done   chan struct{}
	result *Result
	err    error
}

// wait returns what became of another stage of the same plan.
func (s *solver) wait(ctx context.Context, st *plan.Stage) (*Result, error) {
	p, ok := s.stages[st]
	if !ok {
		return nil, fmt.Errorf("stage %s is not part of the plan", st.Name)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return p.result, p.err
}

// slot waits until one more step may work.
func (s *solver) slot(ctx context.Context) (release func(), err error) {
	if s.slots == nil {
		return func() {}, nil
	}
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
