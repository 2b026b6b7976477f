package solve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/secret"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// world is a store, a context and the two parts that would need privileges, as fakes: a root filesystem is a plain directory, and a command
// is a Go function by its name.
type world struct {
	t       *testing.T
	store   *store.Store
	context string
	steps   *recordedSteps
	snaps   *fakeSnapshots
	run     func(ctx context.Context, spec executor.Spec) error
	mu      sync.Mutex
	ran     []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, store: st, context: t.TempDir()}
	w.snaps = &fakeSnapshots{w: w}
	w.steps = &recordedSteps{Steps: cache.New(st)}
	return w
}

// recordedSteps counts what the cache was asked and what it answered.
type recordedSteps struct {
	cache.Steps
	mu         sync.Mutex
	hits, puts int
}

func (r *recordedSteps) Get(ctx context.Context, k cache.Key) (cache.Record, bool, error) {
	rec, hit, err := r.Steps.Get(ctx, k)
	r.mu.Lock()
	defer r.mu.Unlock()
	if hit {
		r.hits++
	}
	return rec, hit, err
}

func (r *recordedSteps) Put(ctx context.Context, k cache.Key, rec cache.Record) error {
	r.mu.Lock()
	r.puts++
	r.mu.Unlock()
	return r.Steps.Put(ctx, k, rec)
}

// fakeSnapshots gives each RUN an empty directory and makes a layer of what is in it.
type fakeSnapshots struct {
	w      *world
	mu     sync.Mutex
	opened int
	// rest, if set, makes layers whose blobs are finished when it returns.
	rest func() error
}

func (f *fakeSnapshots) Name() string { return "fake" }

func (f *fakeSnapshots) Open(_ context.Context, chain []layer.Layer) (snapshot.ROLayer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	return &fakeRO{f: f, chain: chain}, nil
}

func (f *fakeSnapshots) OpenFile(ctx context.Context, chain []layer.Layer, name string) (io.ReadCloser, error) {
	l := chain[len(chain)-1]
	blob, err := f.w.store.OpenBlob(l.Descriptor.Digest)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	dir := f.w.t.TempDir()
	if _, err := layer.Unpack(ctx, blob, l, dir, nil, layer.Limits{}); err != nil {
		return nil, err
	}
	return os.Open(filepath.Join(dir, name))
}

type fakeRO struct {
	f     *fakeSnapshots
	chain []layer.Layer
}

func (r *fakeRO) Release() error { return nil }

// ContentStoreDigest completes the contract.
func (r *fakeRO) ContentStoreDigest() digest.Digest { return "" }

func (r *fakeRO) Chain() []layer.Layer  { return r.chain }
func (r *fakeRO) DiffID() digest.Digest { return r.chain[len(r.chain)-1].DiffID }
func (r *fakeRO) NewRWLayer() (snapshot.RWLayer, error) {
	rw := &fakeRW{ro: r, dir: r.f.w.t.TempDir()}
	if r.f.rest != nil {
		return &fakeEarly{rw}, nil
	}
	return rw, nil
}

type fakeRW struct {
	ro  *fakeRO
	dir string
}

func (rw *fakeRW) Root() string   { return rw.dir }
func (rw *fakeRW) Release() error { return nil }

func (rw *fakeRW) Commit() (snapshot.ROLayer, error) {
	var items []layer.Item
	err := filepath.WalkDir(rw.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(rw.dir, p)
		items = append(items, layer.Item{
			Entry: layer.Entry{Path: name, Type: layer.File, Mode: 0o644, Size: int64(len(data))},
			Open:  func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	s := &solver{Options: Options{Store: rw.ro.f.w.store}}
	l, err := s.write(context.Background(), func(ctx context.Context, w *layer.Writer) error { return layer.WriteAll(ctx, w, items) }, layer.Compression{})
	if err != nil {
		return nil, err
	}
	return &fakeRO{f: rw.ro.f, chain: append(clone(rw.ro.chain), l)}, nil
}

// Name and Run make world the executor.
func (w *world) Name() string { return "fake" }

func (w *world) Run(ctx context.Context, spec executor.Spec) error {
	command := spec.Process.Args[len(spec.Process.Args)-1]
	w.mu.Lock()
	w.ran = append(w.ran, command)
	w.mu.Unlock()
	if w.run != nil {
		return w.run(ctx, spec)
	}
	return os.WriteFile(filepath.Join(spec.Root, "out"), []byte(command), 0o644)
}

// Context makes world the contexts.
func (w *world) Context(ctx context.Context, _ plan.Context) (layer.Tree, error) {
	c, err := source.OpenDir(ctx, w.context, source.ContextOptions{})
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c, nil
}

func (w *world) Remote(context.Context, plan.Remote) (RemoteTree, error) {
	return RemoteTree{}, errors.New("no network here")
}

func (w *world) file(name, data string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.context, name), []byte(data), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) solve(text string, change ...func(*Options)) (*Result, error) {
	w.t.Helper()
	return w.solveTo(&events{}, text, change...)
}

func (w *world) solveTo(sink progress.Sink, text string, change ...func(*Options)) (*Result, error) {
	w.t.Helper()
	p, o := w.planned(text, change...)
	r, err := Solve(progress.With(w.t.Context(), sink), []*plan.Plan{p}, o)
	if err != nil {
		return nil, err
	}
	return r[0], nil
}

// planned is a plan, and what it is solved with.
func (w *world) planned(text string, change ...func(*Options)) (*plan.Plan, Options) {
	w.t.Helper()
	file, err := dockerfile.Parse("Dockerfile", []byte(text), dockerfile.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	linux := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	o := Options{
		Store: w.store, Cache: w.steps, Contexts: w, Snapshotter: w.snaps, Executor: w,
		Images: source.NewImages(source.ImagesOptions{Store: w.store}),
	}
	for _, c := range change {
		c(&o)
	}
	p, err := plan.New(w.t.Context(), file, plan.Options{Platform: linux, BuildPlatform: linux, NoCache: o.Reuse.NoCache})
	if err != nil {
		w.t.Fatal(err)
	}
	return p, o
}

func (w *world) mustSolve(text string, change ...func(*Options)) *Result {
	w.t.Helper()
	return w.mustSolveTo(&events{}, text, change...)
}

func (w *world) mustSolveTo(sink progress.Sink, text string, change ...func(*Options)) *Result {
	w.t.Helper()
	r, err := w.solveTo(sink, text, change...)
	if err != nil {
		w.t.Error(err)
		return &Result{}
	}
	return r
}

func TestCopyNeedsNoRootFilesystem(t *testing.T) {
	w := newWorld(t)
	w.file("a", "alpha")
	r := w.mustSolve("FROM scratch AS one\nCOPY a /dir/a\nFROM scratch\nWORKDIR /w\nCOPY --from=one /dir /got\n")
	if w.snaps.opened != 0 {
		t.Errorf("the snapshotter was asked %d times for a build without RUN", w.snaps.opened)
	}
	if len(r.Made) != 2 || len(r.Layers()) != 2 {
		t.Fatalf("%d layers made, %d in all; want 2 and 2", len(r.Made), len(r.Layers()))
	}
	ix, err := w.store.LayerIndex(r.Made[1].Layer.DiffID)
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := ix.Lookup("got/a"); !ok || e.Sum.Digest() != digest.FromString("alpha") {
		t.Errorf("the copied file is %+v, %v", e, ok)
	}
}

func TestSecondSolveIsAllHits(t *testing.T) {
	w := newWorld(t)
	w.file("a", "alpha")
	text := "FROM scratch AS one\nCOPY a /a\nRUN first\nFROM scratch\nCOPY --from=one /out /\nRUN second\n"
	first := w.mustSolve(text)
	ran, puts := len(w.ran), w.steps.puts
	second := w.mustSolve(text)
	if len(w.ran) != ran || w.steps.puts != puts || w.steps.hits != puts {
		t.Errorf("%d commands, then %d; %d records, then %d; %d hits", ran, len(w.ran), puts, w.steps.puts, w.steps.hits)
	}
	if got, want := chainID(second.Layers()), chainID(first.Layers()); got != want {
		t.Errorf("chain %s, then %s", want, got)
	}
	if !second.Made[0].Created.Equal(first.Made[0].Created) {
		t.Error("a cached layer has a new time, which would make another image of it")
	}
}

// TestWhatAKeyDependsOn changes one thing at a time: what the result can depend on must miss, what it must not depend on must hit.
func TestWhatAKeyDependsOn(t *testing.T) {
	const text = "FROM scratch\nCOPY a /a\nRUN --mount=type=secret,id=s,env=S cmd\n"
	with := func(value string) func(*Options) {
		return func(o *Options) { o.Run.Secrets = map[string]secret.Value{"s": secret.New([]byte(value))} }
	}

	for _, tc := range []struct {
		name   string
		text   string
		before func(*world)
		option func(*Options)
		misses int
	}{
		{name: "nothing"},
		{name: "content", before: func(w *world) { w.file("a", "beta!") }, misses: 2},
		{name: "mtime", before: func(w *world) {
			if err := os.Chtimes(filepath.Join(w.context, "a"), epochs[0], epochs[1]); err != nil {
				w.t.Fatal(err)
			}
		}},
		{name: "another file", before: func(w *world) { w.file("b", "x") }},
		{name: "value of a secret", option: with("other")},
		{name: "host name", option: func(o *Options) { o.Run.Hostname = "h" }, misses: 1},
		{name: "shm size", option: func(o *Options) { o.Run.ShmSize = 1 << 20 }, misses: 1},
		{name: "ulimit", option: func(o *Options) { o.Run.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}} }, misses: 1},
		{name: "command", text: strings.Replace(text, "cmd", "cmd2", 1), misses: 1},
		{name: "destination", text: strings.Replace(text, "/a\n", "/b\n", 1), misses: 2},
		{name: "user", text: strings.Replace(text, "RUN", "USER 7\nRUN", 1), misses: 1},
		{name: "environment", text: strings.Replace(text, "RUN", "ENV x=y\nRUN", 1), misses: 1},
		{name: "argument in scope", text: strings.Replace(text, "RUN", "ARG x=y\nRUN", 1), misses: 1},
		{name: "label", text: text + "LABEL a=b\n"},
		{name: "name of a variable", text: strings.Replace(text, "env=S", "env=T", 1), misses: 1},
		{name: "no-cache", option: func(o *Options) { o.Reuse.NoCache = true }, misses: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.file("a", "alpha")
			w.run = func(_ context.Context, spec executor.Spec) error {
				return os.WriteFile(filepath.Join(spec.Root, "out"), []byte("same"), 0o644)
			}
			w.mustSolve(text, with("value"))
			before := w.steps.puts
			if tc.before != nil {
				tc.before(w)
			}
			again := tc.text
			if again == "" {
				again = text
			}
			options := []func(*Options){with("value")}
			if tc.option != nil {
				options = append(options, tc.option)
			}
			w.mustSolve(again, options...)
			if got := w.steps.puts - before; got != tc.misses {
				t.Errorf("%d steps were carried out again, want %d", got, tc.misses)
			}
		})
	}
}

func TestFailingRun(t *testing.T) {
	w := newWorld(t)
	w.run = func(context.Context, executor.Spec) error { return &executor.ExitError{Code: 3} }
	_, err := w.solve("FROM scratch AS broken\nRUN cmd\nFROM scratch\nCOPY --from=broken / /\n")
	var step *StepError
	var proc *ProcessError
	var exit *executor.ExitError
	if !errors.As(err, &step) || !errors.As(err, &proc) || !errors.As(err, &exit) {
		t.Fatalf("the error of a command that failed is %T: %v", err, err)
	}
	if step.Location.First != 2 || exit.StatusCode() != 3 {
		t.Errorf("line %d, code %d; want 2 and 3", step.Location.First, exit.StatusCode())
	}
	if want := `Dockerfile:2: process "/bin/sh -c cmd" did not complete successfully: exit code: 3`; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	if w.steps.puts != 0 {
		t.Error("a step that failed was remembered")
	}
}

// TestStagesOverlap has each of two commands wait for the other: one after the other they would never end.
func TestStagesOverlap(t *testing.T) {
	w := newWorld(t)
	var both sync.WaitGroup
	both.Add(2)
	w.run = func(ctx context.Context, _ executor.Spec) error {
		both.Done()
		both.Wait()
		return ctx.Err()
	}
	w.mustSolve("FROM scratch AS a\nRUN one\nFROM scratch AS b\nRUN two\nFROM scratch\nCOPY --from=a / /a/\nCOPY --from=b / /b/\n")
}

// TestSameStepIsDoneOnce has two builds come to one step at the same time: the second must wait for the first and take its result.
func TestSameStepIsDoneOnce(t *testing.T) {
	w := newWorld(t)
	inside, release := make(chan struct{}), make(chan struct{})
	w.run = func(_ context.Context, spec executor.Spec) error {
		close(inside) // panics if the command runs twice
		<-release
		return os.WriteFile(filepath.Join(spec.Root, "out"), []byte("x"), 0o644)
	}
	const text = "FROM scratch\nRUN cmd\n"
	results := make(chan *Result, 2)
	var both sync.WaitGroup
	both.Go(func() { results <- w.mustSolve(text) })
	<-inside
	saw := make(chan struct{})
	both.Go(func() { results <- w.mustSolveTo(&events{saw: saw}, text) })
	<-saw
	close(release)
	both.Wait()
	if a, b := <-results, <-results; a == nil || b == nil || chainID(a.Layers()) != chainID(b.Layers()) {
		t.Errorf("two results: %+v and %+v", a, b)
	}
}

func TestJobsBoundsWhatRunsAtOnce(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	running, most := 0, 0
	w.run = func(context.Context, executor.Spec) error {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		defer func() { mu.Lock(); running--; mu.Unlock() }()
		return nil
	}
	text := "FROM scratch AS a\nRUN one\nRUN two\nFROM scratch AS b\nRUN three\nRUN four\nFROM scratch\nCOPY --from=a / /a/\nCOPY --from=b / /b/\n"
	w.mustSolve(text, func(o *Options) { o.Reuse.Jobs = 1 })
	if most != 1 {
		t.Errorf("%d commands ran at once with --jobs 1", most)
	}
}

func TestRequiredSecret(t *testing.T) {
	w := newWorld(t)
	_, err := w.solve("FROM scratch\nRUN --mount=type=secret,id=token,required cmd\n")
	if err == nil || !strings.Contains(err.Error(), "--secret id=token") {
		t.Errorf("a missing secret gives %v, want a hint at --secret id=token", err)
	}
	if len(w.ran) != 0 {
		t.Error("the command ran without its secret")
	}
}

func TestEventsOfCachedAndFailedSteps(t *testing.T) {
	w := newWorld(t)
	w.file("a", "alpha")
	text := "FROM scratch\nCOPY a /a\n"
	w.mustSolve(text)
	var sink events
	w.mustSolveTo(&sink, text)
	started, cached := 0, 0
	for _, e := range sink.all {
		if e.Kind == progress.Started {
			started++
		}
		if e.Kind == progress.Completed && e.Cached {
			cached++
		}
	}
	if started != 1 || cached != 1 {
		t.Errorf("%d steps started and %d were cached, want 1 and 1", started, cached)
	}
}

// TestWarningsOfCachedSteps: what is worth a warning is so as well when the step is answered from the cache.
func TestWarningsOfCachedSteps(t *testing.T) {
	w := newWorld(t)
	w.file("a", "alpha")
	w.file("b", "beta")
	text := "FROM scratch\nCOPY a b /o\n"
	for _, kind := range []string{"made", "cached"} {
		var sink events
		w.mustSolveTo(&sink, text)
		var warnings []string
		for _, e := range sink.all {
			if e.Kind == progress.Warned {
				warnings = append(warnings, e.Warning.Message)
			}
		}
		if len(warnings) != 1 || !strings.Contains(warnings[0], "replaces") {
			t.Errorf("%s: the warnings are %q", kind, warnings)
		}
	}
	if w.steps.hits != 1 {
		t.Errorf("%d hits", w.steps.hits)
	}
}

// events keeps what was reported. saw is closed by the first output.
type events struct {
	mu  sync.Mutex
	all []progress.Event
	saw chan struct{}
}

func (e *events) Event(ev progress.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
	if ev.Kind == progress.Output && e.saw != nil {
		close(e.saw)
		e.saw = nil
	}
}

var epochs = []time.Time{time.Unix(1, 0), time.Unix(2, 0)}
