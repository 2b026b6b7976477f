package solve

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/snapshot"
)

// fakeEarly is a fakeRW that can leave its layer unfinished.
type fakeEarly struct{ *fakeRW }

func (rw *fakeEarly) CommitEarly(context.Context) (snapshot.ROLayer, func() (layer.Layer, error), error) {
	ro, err := rw.Commit()
	if err != nil {
		return nil, nil, err
	}
	chain := ro.Chain()
	l := chain[len(chain)-1]
	chain[len(chain)-1] = layer.Layer{DiffID: l.DiffID}
	return ro, func() (layer.Layer, error) { return l, rw.ro.f.rest() }, nil
}

// finishedBySecond is a world in which the blob of the first step's layer is finished when the second step has been run.
func finishedBySecond(t *testing.T, second error) *world {
	w := newWorld(t)
	ran := make(chan struct{})
	w.snaps.rest = func() error {
		select {
		case <-ran:
			return nil
		case <-time.After(30 * time.Second):
			return errors.New("the second step waits for the first one's blob")
		}
	}
	w.run = func(_ context.Context, spec executor.Spec) error {
		if strings.Contains(spec.Process.Args[len(spec.Process.Args)-1], "two") {
			close(ran)
			return second
		}
		return nil
	}
	return w
}

func TestLayersAreFinishedBehind(t *testing.T) {
	w := finishedBySecond(t, nil)
	var mu sync.Mutex
	var offered []layer.Layer
	r := w.mustSolve("FROM scratch\nRUN one\nRUN two\n", func(o *Options) {
		o.Offer = func(l layer.Layer, base bool) {
			mu.Lock()
			defer mu.Unlock()
			offered = append(offered, l)
		}
	})
	if len(offered) != 2 {
		t.Errorf("%d layers were offered", len(offered))
	}
	for _, l := range append(offered, r.Layers()...) {
		if _, held := w.store.HasBlob(l.Descriptor.Digest); !held {
			t.Errorf("%+v is unfinished", l)
		}
	}
	if w.mustSolve("FROM scratch\nRUN one\nRUN two\n"); len(w.ran) != 2 {
		t.Errorf("ran %v", w.ran)
	}
}

// TestUnfinishedLayerOutlivesFailure: what a step made is remembered also when the next one fails first.
func TestUnfinishedLayerOutlivesFailure(t *testing.T) {
	w := finishedBySecond(t, errors.New("the second fails"))
	if _, err := w.solve("FROM scratch\nRUN one\nRUN two\n"); err == nil || !strings.Contains(err.Error(), "the second fails") {
		t.Errorf("it ended with %v", err)
	}
	if w.mustSolve("FROM scratch\nRUN one\n"); len(w.ran) != 2 {
		t.Errorf("ran %v: the first step was forgotten", w.ran)
	}
}

// TestFailingToFinish: an error of the background is the step's, and nothing is remembered.
func TestFailingToFinish(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("the disk is full")
	w.snaps.rest = func() error { return broken }
	_, err := w.solve("FROM scratch\nRUN one\nRUN two\n")
	var step *StepError
	if !errors.Is(err, broken) || !errors.As(err, &step) || step.Location.First != 2 {
		t.Errorf("it ended with %v", err)
	}
	w.snaps.rest = nil
	w.ran = nil
	if w.mustSolve("FROM scratch\nRUN one\n"); len(w.ran) != 1 {
		t.Error("a layer without a blob was remembered")
	}
}

// TestOneJobFinishesFirst: with --jobs 1 nothing is done at once.
func TestOneJobFinishesFirst(t *testing.T) {
	w := newWorld(t)
	w.snaps.rest = func() error { return errors.New("a layer was left unfinished") }
	w.mustSolve("FROM scratch\nRUN one\nRUN two\n", func(o *Options) { o.Reuse.Jobs = 1 })
}

// TestFailureEndsOtherStages: what cannot succeed any more is not carried on while layers are finished, and is told with what went wrong there.
func TestFailureEndsOtherStages(t *testing.T) {
	w := newWorld(t)
	broken, exit := errors.New("the disk is full"), errors.New("exit code 1")
	ended := make(chan struct{})
	w.snaps.rest = func() error {
		select {
		case <-ended:
			return broken
		case <-time.After(30 * time.Second):
			return errors.New("the other stage goes on until the layer is finished")
		}
	}
	other := make(chan struct{})
	w.run = func(ctx context.Context, spec executor.Spec) error {
		switch cmd := spec.Process.Args[len(spec.Process.Args)-1]; {
		case strings.Contains(cmd, "fails"):
			<-other
			return exit
		case strings.Contains(cmd, "other"):
			close(other)
			<-ctx.Done()
			close(ended)
			return errors.New("killed")
		}
		return nil
	}
	_, err := w.solve("FROM scratch AS a\nRUN one\nRUN fails\nFROM scratch AS b\nRUN other\nFROM b\nCOPY --from=a / /\n")
	if !errors.Is(err, exit) || !errors.Is(err, broken) || strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v", err)
	}
}

// TestFailingToFinishEndsTheStep: nobody waits for a step whose stage has lost a layer.
func TestFailingToFinishEndsTheStep(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("the disk is full")
	running := make(chan struct{})
	w.snaps.rest = func() error {
		<-running
		return broken
	}
	w.run = func(ctx context.Context, spec executor.Spec) error {
		if !strings.Contains(spec.Process.Args[len(spec.Process.Args)-1], "two") {
			return nil
		}
		close(running)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(30 * time.Second):
			return errors.New("the step was not ended")
		}
	}
	if _, err := w.solve("FROM scratch\nRUN one\nRUN two\n"); !errors.Is(err, broken) || strings.Contains(err.Error(), "not ended") {
		t.Errorf("it ended with %v", err)
	}
}

// goneImages has no layers, once the other stage runs.
type goneImages struct {
	Images
	running chan struct{}
	err     error
}

func (g goneImages) Layers(context.Context, plan.ResolvedImage) ([]layer.Layer, error) {
	<-g.running
	return nil, g.err
}

// TestBaseAndLayerFail: a base that is not to be had is told too when another stage loses a layer after that.
func TestBaseAndLayerFail(t *testing.T) {
	w := newWorld(t)
	gone, broken := errors.New("the base is gone"), errors.New("the disk is full")
	running, ended := make(chan struct{}), make(chan struct{})
	w.snaps.rest = func() error {
		<-ended
		return broken
	}
	w.run = func(ctx context.Context, spec executor.Spec) error {
		if !strings.Contains(spec.Process.Args[len(spec.Process.Args)-1], "two") {
			return nil
		}
		close(running)
		<-ctx.Done()
		close(ended)
		return context.Cause(ctx)
	}
	p, o := w.planned("FROM scratch AS a\nRUN one\nRUN two\nFROM scratch\nCOPY --from=a / /\n")
	p.Target().Base = plan.Source{Image: &plan.ResolvedImage{}}
	o.Images = goneImages{o.Images, running, gone}
	if _, err := Solve(t.Context(), []*plan.Plan{p}, o); !errors.Is(err, gone) || !errors.Is(err, broken) {
		t.Errorf("it ended with %v", err)
	}
}

// TestGivenUpIsNoFailure: a build that is stopped while a layer is finished ends with why it was stopped.
func TestGivenUpIsNoFailure(t *testing.T) {
	w := newWorld(t)
	stopped := errors.New("stopped by interrupt")
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	w.snaps.rest = func() error {
		<-ctx.Done()
		return errors.New("the layer is given up")
	}
	w.run = func(ctx context.Context, spec executor.Spec) error {
		if !strings.Contains(spec.Process.Args[len(spec.Process.Args)-1], "two") {
			return nil
		}
		stop(stopped)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	p, o := w.planned("FROM scratch\nRUN one\nRUN two\n")
	if _, err := Solve(ctx, []*plan.Plan{p}, o); !errors.Is(err, stopped) || strings.Contains(err.Error(), "given up") {
		t.Errorf("it ended with %v", err)
	}
}

// TestOnePlatformFails: a layer of another platform is finished and remembered, as one of another stage is.
func TestOnePlatformFails(t *testing.T) {
	w := newWorld(t)
	exit := errors.New("exit code 1")
	ended := make(chan struct{})
	w.snaps.rest = func() error {
		<-ended
		return nil
	}
	started := make(chan struct{})
	w.run = func(ctx context.Context, spec executor.Spec) error {
		switch cmd := spec.Process.Args[len(spec.Process.Args)-1]; {
		case strings.Contains(cmd, "fails"):
			<-started
			return exit
		case strings.Contains(cmd, "two"):
			close(started)
			<-ctx.Done()
			close(ended)
			return context.Cause(ctx)
		}
		return nil
	}
	good, o := w.planned("FROM scratch\nRUN one\nRUN two\n")
	bad, _ := w.planned("FROM scratch\nRUN fails\n")
	if _, err := Solve(t.Context(), []*plan.Plan{good, bad}, o); !errors.Is(err, exit) {
		t.Errorf("it ended with %v", err)
	}
	w.ran = nil
	if w.mustSolve("FROM scratch\nRUN one\n"); len(w.ran) != 0 {
		t.Errorf("ran %v: what the other platform had made was forgotten", w.ran)
	}
}

// TestWaitingForLayersIsShown: a stage whose steps are done says what it still waits for, and one that waits for nothing does not.
func TestWaitingForLayersIsShown(t *testing.T) {
	const name = "[a] compressing layers"
	w := newWorld(t)
	shown := &awaited{name: name, seen: make(chan struct{})}
	w.snaps.rest = func() error {
		select {
		case <-shown.seen:
			return nil
		case <-time.After(30 * time.Second):
			return errors.New("nothing is shown while a layer is finished")
		}
	}
	w.mustSolveTo(shown, "FROM scratch AS a\nRUN one\nRUN two\n")
	if !shown.done(name) {
		t.Error("the wait did not end")
	}
	quiet := &awaited{}
	w.mustSolveTo(quiet, "FROM scratch AS a\nRUN one\nRUN two\n")
	if quiet.done(name) {
		t.Error("a cached stage waits for layers")
	}
}

// awaited are events, and a signal when the vertex called name has started.
type awaited struct {
	events
	name string
	seen chan struct{}
}

func (a *awaited) Event(ev progress.Event) {
	a.events.Event(ev)
	if ev.Kind == progress.Started && ev.Name == a.name {
		close(a.seen)
	}
}

// done reports whether a vertex of a name has started and ended well.
func (a *awaited) done(name string) bool {
	id := ""
	for _, ev := range a.all {
		if ev.Kind == progress.Started && ev.Name == name {
			id = ev.Vertex
		}
		if ev.Kind == progress.Completed && ev.Vertex == id && id != "" {
			return ev.Err == nil
		}
	}
	return false
}
