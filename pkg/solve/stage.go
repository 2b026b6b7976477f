package solve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// stage is one stage on its way: what it has so far.
type stage struct {
	*solver
	plan *plan.Stage
	// platform is what it is built for, epoch SOURCE_DATE_EPOCH, the time of what is created; nil for the time of day.
	platform ocispec.Platform
	epoch    *time.Time
	// chain are the layers so far, root is the ChainID that they make; "" is scratch.
	chain []layer.Layer
	root  digest.Digest
	Result
	// top is the root filesystem of chain where a RUN has just left it open, nil otherwise.
	top snapshot.ROLayer
	// settling are the layers that were finished in the background, or still are; current is the number of the step being worked on.
	settling []*settling
	current  int
}

// stage solves one stage of a plan.
func (s *solver) stage(ctx context.Context, of *plan.Plan, p *plan.Stage) (*Result, error) {
	st := &stage{solver: s, plan: p, platform: of.Platform, epoch: of.Created(), Result: Result{Stage: p}}
	defer st.closeTop()
	err := st.from(ctx)
	if err == nil {
		err = st.steps(ctx)
	}
	if err != nil && ctx.Err() == nil {
		// Nobody goes on meanwhile. But what has been made here is finished and kept, so that the next build need not make it again.
		st.fail(err)
	}
	if serr := st.settle(ctx); err == nil {
		err = serr
	}
	if err != nil {
		return nil, err
	}
	return &st.Result, nil
}

func (st *stage) steps(ctx context.Context) error {
	for i, step := range st.plan.Steps {
		st.current = i
		if err := st.step(ctx, i, step); err != nil {
			return err
		}
	}
	return nil
}

// from puts the base's layers at the bottom.
func (st *stage) from(ctx context.Context) error {
	base := st.plan.Base
	switch {
	case base.Stage != nil:
		res, err := st.wait(ctx, base.Stage)
		if err != nil {
			return err
		}
		st.chain, st.Base, st.Below = res.Layers(), res.Base, res
		st.root = chainID(st.chain)
	case base.Image != nil:
		v := progress.Start(ctx, st.vertex("from"), st.plan.BaseName)
		layers, err := st.Images.Layers(ctx, *base.Image)
		if err != nil {
			v.Done(err)
			return err
		}
		v.Cached()
		st.chain, st.Base = clone(layers), layers
		st.root = chainID(st.chain)
		for _, l := range layers {
			st.offer(l, true)
		}
	}
	return nil
}

func clone(l []layer.Layer) []layer.Layer { return append([]layer.Layer(nil), l...) }

// step answers one step from the cache or carries it out. It is shown from when everything it depends on is there.
func (st *stage) step(ctx context.Context, i int, step *plan.Step) error {
	work, err := st.prepare(ctx, step)
	work.key = st.placed(work.key, i, step)
	v := progress.Start(ctx, st.vertex(fmt.Sprint(i)), step.Name)
	if err != nil {
		err = at(step, err)
		v.Done(err)
		return err
	}
	unlock := func() {}
	if !step.IgnoreCache {
		var done bool
		if done, unlock, err = st.answered(ctx, work.key, v); done || err != nil {
			return at(step, err)
		}
	}
	err = at(step, st.carryOut(ctx, work, v, unlock))
	v.Done(err)
	return err
}

// answered looks the step up. Where it has to be done, nobody else who shares the store does it until unlock is called: of two builds that come to
// the same step one does it, and the other takes what came of it.
func (st *stage) answered(ctx context.Context, k cache.Key, v *progress.Vertex) (done bool, unlock func(), err error) {
	rec, hit, err := st.Cache.Get(ctx, k)
	if err == nil && !hit {
		name := "step/" + k.Digest().String()
		var free bool
		if unlock, free, err = st.Store.TryLock(name); err == nil && !free {
			fmt.Fprintln(v.Stderr(), "waiting for another build that does the same")
			if unlock, err = st.Store.Lock(ctx, name); err == nil {
				rec, hit, err = st.Cache.Get(ctx, k)
			}
		}
	}
	switch {
	case err != nil:
		if unlock != nil {
			unlock()
		}
		v.Done(err)
		return false, nil, err
	case hit:
		if unlock != nil {
			unlock()
		}
		st.push(rec.Layer, rec.Created)
		warn(v, rec.Warnings)
		v.Cached()
		return true, nil, nil
	}
	return false, unlock, nil
}

// placed is a key with the place of its step, and what explains the root filesystem that the first step of a stage stands on.
func (st *stage) placed(k cache.Key, i int, step *plan.Step) cache.Key {
	k = k.At(cache.Place{Platform: platformString(st.platform), Stage: st.plan.Name, Number: i, Name: step.Name})
	switch base := st.plan.Base; {
	case i > 0:
	case base.Image != nil:
		k = k.WithNotes(cache.Input{Name: "base image", Value: base.Image.Ref + "@" + base.Image.Digest.String()})
	case base.Stage != nil:
		k = k.WithNotes(cache.Input{Name: "base stage", Value: base.Stage.Name})
	}
	return k
}

// carryOut does the work and remembers what came of it. unlock is called when that is done, which may be later.
func (st *stage) carryOut(ctx context.Context, w work, v *progress.Vertex, unlock func()) error {
	out, err := st.perform(ctx, w, v)
	if err != nil {
		unlock()
		return err
	}
	now := st.now()
	if out.rest != nil {
		return st.later(ctx, w.key, Made{Layer: out.Layer, Created: now}, finishing{rest: out.rest, unlock: unlock})
	}
	defer unlock()
	if err := st.Cache.Put(ctx, w.key, cache.Record{Layer: out.Layer, Created: now, Warnings: out.warnings}); err != nil {
		return err
	}
	st.push(out.Layer, now)
	return nil
}

// perform does the work when there is a slot for it.
func (st *stage) perform(ctx context.Context, w work, v *progress.Vertex) (outcome, error) {
	release, err := st.slot(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer release()
	return w.do(ctx, v)
}

// work is a step ready to be looked up or done.
type work struct {
	key cache.Key
	do  func(context.Context, *progress.Vertex) (outcome, error)
}

// outcome is the layer that a step made. Where rest is set its blob is unfinished: then the layer has no Descriptor, and rest waits for it.
type outcome struct {
	layer.Layer
	warnings []string
	rest     func() (layer.Layer, error)
}

// prepare finds out what a step depends on, waiting for other stages.
func (st *stage) prepare(ctx context.Context, step *plan.Step) (work, error) {
	switch {
	case step.Run != nil:
		return st.run(ctx, step.Run)
	case step.Copy != nil:
		return st.copy(ctx, step.Copy)
	case step.Workdir != nil:
		return st.workdir(step.Workdir)
	}
	return work{}, errors.New("a step without an operation")
}

// push puts a layer on top.
func (st *stage) push(l layer.Layer, created time.Time) {
	if st.top != nil && len(st.top.Chain()) != len(st.chain)+1 {
		st.closeTop()
	}
	st.chain = append(st.chain, l)
	if st.root == "" {
		st.root = l.DiffID
	} else {
		st.root = identity.ChainID([]digest.Digest{st.root, l.DiffID})
	}
	st.Made = append(st.Made, Made{Layer: l, Created: created})
	if l.Descriptor.Digest != "" {
		st.offer(l, false)
	}
}

// offer tells of a layer of the image.
func (st *stage) offer(l layer.Layer, base bool) {
	if st.inImage[st.plan] {
		st.Offer(l, base)
	}
}

// closeTop gives up the open root filesystem.
func (st *stage) closeTop() {
	if st.top != nil {
		_ = st.top.Release() // what could be left of it goes with the store
		st.top = nil
	}
}

// now is the time of what this step makes: SOURCE_DATE_EPOCH, or the time of day.
func (st *stage) now() time.Time {
	if st.epoch != nil {
		return *st.epoch
	}
	return time.Now().UTC()
}

func (st *stage) vertex(part string) string {
	return fmt.Sprintf("%s/%s/%s", platformString(st.platform), st.plan.Name, part)
}

// chainID names the root filesystem that a chain of layers makes; "" is scratch.
func chainID(chain []layer.Layer) digest.Digest {
	ids := make([]digest.Digest, len(chain))
	for i, l := range chain {
		ids[i] = l.DiffID
	}
	return identity.ChainID(ids)
}

// tree is the files of a chain.
func (s *solver) tree(ctx context.Context, chain []layer.Layer) (layer.Tree, error) {
	return Tree(ctx, chain, s.Images, s.Snapshotter)
}

// Tree is the root filesystem that a chain of layers makes, seen through the layers' indexes. The snapshotter is asked for the content of
// files only.
func Tree(ctx context.Context, chain []layer.Layer, images Images, snaps snapshot.Snapshotter) (layer.Tree, error) {
	ixs := make([]*layer.Index, len(chain))
	for i, l := range chain {
		ix, err := images.Index(ctx, l)
		if err != nil {
			return nil, fmt.Errorf("listing layer %s: %w", l.DiffID, err)
		}
		ixs[i] = ix
	}
	return layer.Stack(ixs, func(n int, name string) (io.ReadCloser, error) {
		return snaps.OpenFile(ctx, chain[:n+1], name)
	}), nil
}

// origin is the chain that a source of files stands for.
func (s *solver) origin(ctx context.Context, src plan.Source) ([]layer.Layer, error) {
	switch {
	case src.Stage != nil:
		res, err := s.wait(ctx, src.Stage)
		if err != nil {
			return nil, err
		}
		return res.Layers(), nil
	case src.Image != nil:
		return s.Images.Layers(ctx, *src.Image)
	}
	return nil, nil
}

// files is the tree of any source.
func (s *solver) files(ctx context.Context, src plan.Source) (layer.Tree, error) {
	if src.Context != nil {
		return s.Contexts.Context(ctx, *src.Context)
	}
	chain, err := s.origin(ctx, src)
	if err != nil {
		return nil, err
	}
	return s.tree(ctx, chain)
}

// write makes a layer of entries and keeps it in the store, in one pass over the files.
func (s *solver) write(ctx context.Context, content func(context.Context, *layer.Writer) error, c layer.Compression) (layer.Layer, error) {
	blob, err := s.Store.NewBlob(ctx)
	if err != nil {
		return layer.Layer{}, err
	}
	defer blob.Abort()
	w, err := layer.NewWriter(blob, c)
	if err != nil {
		return layer.Layer{}, err
	}
	w.Temp = s.Store.TempFile
	if err := content(ctx, w); err != nil {
		return layer.Layer{}, err
	}
	diffID, mediaType, ix, err := w.Close()
	if err != nil {
		return layer.Layer{}, err
	}
	desc, err := blob.Commit("")
	if err != nil {
		return layer.Layer{}, err
	}
	desc.MediaType = mediaType
	l := layer.Layer{DiffID: diffID, Descriptor: desc}
	return l, s.Store.PutLayer(l, ix)
}
