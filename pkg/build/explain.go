package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
)

// Expectation is what must be answered from the cache.
type Expectation struct {
	// All is every stage; else Stages by name.
	All    bool
	Stages []string
}

// recorderOptions are what the recorder of a build has to do.
func (r *reuse) recorderOptions() cache.RecorderOptions {
	share := r.options.Share
	o := cache.RecorderOptions{Explain: share.Explain}
	for _, l := range share.To {
		o.Inputs = o.Inputs || l.Type != cache.TypeInline
	}
	if want := share.Expect; want.All || len(want.Stages) > 0 {
		o.Expect = func(stage string) bool {
			return want.All || slices.ContainsFunc(want.Stages, func(s string) bool { return strings.EqualFold(s, stage) })
		}
	}
	return o
}

// check refuses expectations of stages that are not built, and an inline cache without an image to be in.
func (s ShareOptions) check(plans []*plan.Plan, outputs []export.Output) error {
	inline := slices.ContainsFunc(s.To, func(l cache.Location) bool { return l.Type == cache.TypeInline })
	image := len(outputs) == 0 || slices.ContainsFunc(outputs, export.Output.HoldsImage)
	if inline && !image {
		return errors.New("exporting cache to type=inline: no output is an image that it could be part of")
	}
	for _, name := range s.Expect.Stages {
		var have []string
		for _, st := range plans[0].Stages {
			have = append(have, st.Name)
		}
		if !slices.ContainsFunc(have, func(s string) bool { return strings.EqualFold(s, name) }) {
			return fmt.Errorf("stage %s, which is expected to be cached, is not part of this build (it has %s)", name, strings.Join(have, ", "))
		}
	}
	return nil
}

// explain shows what became of every step, in the order of the Dockerfile: a line for a hit, a warning with its place for a miss.
func (r *reuse) explain(ctx context.Context, plans []*plan.Plan) {
	if !r.options.Share.Explain || r.recorder == nil {
		return
	}
	used := map[cache.Place]cache.Used{}
	for _, u := range r.recorder.Used() {
		used[u.Key.Place()] = u
	}
	v := progress.Start(ctx, "explain", "[internal] explaining what was cached")
	defer v.Done(nil)
	for _, p := range plans {
		for _, st := range p.Stages {
			for i, step := range st.Steps {
				for place, u := range used {
					if place.Stage == st.Name && place.Number == i && place.Name == step.Name {
						tell(v, step, u)
						delete(used, place)
					}
				}
			}
		}
	}
}

// tell shows one step.
func tell(v *progress.Vertex, step *plan.Step, u cache.Used) {
	if u.Hit {
		from := ""
		if len(u.Record.Via) > 0 {
			from = ", from " + strings.Join(u.Record.Via, ", ")
		}
		fmt.Fprintf(v.Stdout(), "hit:  %s%s\n", step.Name, from)
		return
	}
	why := "it was not looked for (--no-cache)"
	if u.Reason != nil {
		why = u.Reason.String()
	}
	v.Warn(progress.Warning{
		Rule: "CacheMiss", Message: step.Name + ": " + why,
		File: step.Location.File, First: step.Location.First, Last: step.Location.Last,
	})
}
