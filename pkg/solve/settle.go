package solve

import (
	"context"
	"fmt"

	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
)

// maxSettling is how many layers of one stage are compressed behind its steps' backs.
const maxSettling = 2

// settling is a layer of which only the DiffID is known to the steps that follow, while its blob is finished. That is enough for them: a key is
// about content, and the files are in the snapshot.
type settling struct {
	// made is its place in Result.Made, chain that in the chain.
	made, chain int
	done        chan struct{}
	layer       layer.Layer
	err         error
}

// finishing is what is left to do for a layer: rest finishes its blob, unlock lets others look for the step.
type finishing struct {
	rest   func() (layer.Layer, error)
	unlock func()
}

// early reports whether the step being worked on may leave its layer unfinished: others follow it, and things may be done at once.
func (st *stage) early() bool { return st.current+1 < len(st.plan.Steps) && st.Reuse.Jobs != 1 }

// later puts an unfinished layer on top. It is finished, remembered and offered in the background.
func (st *stage) later(ctx context.Context, k cache.Key, m Made, f finishing) error {
	it := &settling{made: len(st.Made), chain: len(st.chain), done: make(chan struct{})}
	st.push(m.Layer, m.Created)
	step := st.plan.Steps[st.current]
	go func() {
		defer close(it.done)
		defer f.unlock()
		if it.layer, it.err = f.rest(); it.err == nil {
			it.err = st.Cache.Put(st.background, k, cache.Record{Layer: it.layer, Created: m.Created})
		}
		if it.err != nil && st.background.Err() != nil {
			it.err = context.Cause(st.background) // it was given up, which is no failure of its own
		}
		if it.err != nil {
			it.err = at(step, fmt.Errorf("finishing the layer: %w", it.err))
			st.fail(it.err)
			return
		}
		st.offer(it.layer, false)
	}()
	st.settling = append(st.settling, it)
	if n := len(st.settling) - maxSettling; n > 0 {
		select {
		case <-st.settling[n-1].done:
			return st.settling[n-1].err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// settle waits for the unfinished layers and puts what they became in their places. The wait is shown where there is one.
func (st *stage) settle(ctx context.Context) (err error) {
	var v *progress.Vertex
	defer func() {
		if v != nil {
			v.Done(err)
		}
	}()
	for _, it := range st.settling {
		select {
		case <-it.done:
		default:
			if v == nil {
				v = progress.Start(ctx, st.vertex("layers"), "["+st.plan.Name+"] compressing layers")
			}
			<-it.done
		}
		if err == nil {
			err = it.err
		}
		st.Made[it.made].Layer, st.chain[it.chain] = it.layer, it.layer
	}
	return err
}
