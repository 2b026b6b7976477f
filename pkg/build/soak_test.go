package build_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/build"
	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/solve"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/test/harness"
	"github.com/cairn-build/cairn/test/torture"
)

// TestMain brings the tests to where the command builds: a mount and a pid namespace of their own.
func TestMain(m *testing.M) {
	done, code, err := ladder.Enter(ladder.Auto)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if done {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// parts are what builds in one process share.
type parts struct {
	store    *store.Store
	registry *registry.Client
	rung     *ladder.Rung
}

func open(t *testing.T, root string) *parts {
	t.Helper()
	p := &parts{}
	var err error
	if p.registry, err = registry.New(registry.Options{}); err != nil {
		t.Fatal(err)
	}
	if p.store, err = store.Open(root); err != nil {
		t.Fatal(err)
	}
	images := source.NewImages(source.ImagesOptions{Store: p.store, Registry: p.registry})
	if p.rung, err = ladder.Open(ladder.Options{Isolation: ladder.Auto, Store: p.store, Blob: images.Blob}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.registry.Close()
		if err := errors.Join(p.rung.Close(), p.store.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

type nobody struct{}

// Event implements progress.Sink.
func (nobody) Event(progress.Event) {}

// build builds a directory, without answers of the cache, and pushes the image.
func (p *parts) build(ctx context.Context, dir, tag string) error {
	images := source.NewImages(source.ImagesOptions{Store: p.store, Registry: p.registry})
	snaps, err := p.rung.NewSnapshotter(images.Blob)
	if err != nil {
		return err
	}
	_, err = build.Build(ctx, build.Options{
		Input:  build.Input{Context: dir},
		Cache:  solve.CacheOptions{NoCache: true},
		Result: build.ResultOptions{Tags: []string{tag}, Outputs: []export.Output{{Type: export.TypeImage}, {Type: export.TypeRegistry}}},
		Parts: build.Parts{Store: p.store, Images: images, Registry: p.registry, Snapshotter: snaps, Executor: p.rung.Executor,
			Progress: nobody{}},
	})
	return err
}

// What measurements differ by without a leak: of the heap a connection that has not been let go, tokens, stacks, what the test has logged; of what is in
// memory also pages that are not full and threads, so that it shows only what is large. 256 KiB of heap are 1 % of what the process has in memory.
const (
	heapNoise     = 256 << 10
	residentNoise = 4 << 20
)

// held is what the process holds on to, and what there is of everything in its namespaces; of cgroups those that were not there in the beginning.
type held struct{ goroutines, descriptors, mounts, processes, temporary, cgroups int }

func (h held) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d mounts, %d processes, %d temporary files and %d cgroups", h.goroutines, h.descriptors, h.mounts, h.processes,
		h.temporary, h.cgroups)
}

// more reports whether there is more of anything.
func (h held) more(than held) bool {
	return h.goroutines > than.goroutines || h.descriptors > than.descriptors || h.mounts > than.mounts || h.processes > than.processes ||
		h.temporary > than.temporary || h.cgroups > than.cgroups
}

func (p *parts) holding(t *testing.T, dir string, cgroups []string) held {
	t.Helper()
	p.registry.Close() // connections that wait for the next request come and go
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	// Mounts that others make outside show themselves here too.
	h := held{goroutines: runtime.NumGoroutine(), mounts: strings.Count(string(mounts), dir)}
	for _, c := range harness.Cgroups() {
		if !slices.Contains(cgroups, c) {
			h.cgroups++
		}
	}
	for dir, n := range map[string]*int{"/proc/self/fd": &h.descriptors, "/proc": &h.processes} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, err := strconv.Atoi(e.Name()); err == nil {
				*n++
			}
		}
	}
	// In the store's tmp each process that has it open has a directory of its own.
	for _, pattern := range []string{filepath.Join(dir, "store", "tmp", "*", "*"), filepath.Join(os.TempDir(), "*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		h.temporary += len(found)
	}
	return h
}

// settled is what is held when what is on its way out has gone: when it has been the same for a while.
func (p *parts) settled(t *testing.T, dir string, cgroups []string) held {
	t.Helper()
	h := p.holding(t, dir, cgroups)
	for same := 0; same < 20; same++ {
		time.Sleep(20 * time.Millisecond)
		if now := p.holding(t, dir, cgroups); now != h {
			h, same = now, 0
		}
	}
	return h
}

// memory is what the process uses after everything that it does not need has been given back: bytes of objects in the heap, and bytes of it that are
// in memory. The least of some measurements is taken, since what runs beside them only adds.
func memory(t *testing.T) (heap, resident int64) {
	t.Helper()
	heap, resident = math.MaxInt64, math.MaxInt64
	for range 5 {
		runtime.GC() // twice: what a sync.Pool holds survives the first
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		status, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Fatal(err)
		}
		pages, err := strconv.ParseInt(strings.Fields(string(status))[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		heap, resident = min(heap, int64(m.HeapAlloc)), min(resident, pages*int64(os.Getpagesize()))
	}
	return heap, resident
}

// TestSoak is T11: whole builds one after another in one process, each with a base image, COPY, RUN, two stages, a name and a push. They leave no
// goroutine, descriptor, mount, process, temporary file and cgroup, and the process does not grow.
func TestSoak(t *testing.T) {
	warm, builds := torture.Times(5, 100), torture.Times(15, 1000)
	harness.Again(t, func(t *testing.T, place harness.Place) {
		t.Setenv("TMPDIR", t.TempDir())
		cgroups := harness.Cgroups()
		p := open(t, place.Root)
		top := filepath.Dir(place.Root)
		dir := filepath.Join(top, "context")
		host, _, _ := strings.Cut(place.Busybox, "/")
		harness.WriteFiles(t, dir, map[string]string{"Dockerfile": "FROM " + place.Busybox + " AS a\nCOPY file /file\nRUN cat /file /file > /two\n" +
			"FROM " + place.Busybox + "\nCOPY --from=a /two /\nRUN --mount=type=cache,target=/c cp /two /c; rm /bin/vi\n"})
		n := 0
		one := func() {
			n++
			harness.WriteFiles(t, dir, map[string]string{"file": fmt.Sprintln(n)})
			if err := p.build(t.Context(), dir, host+"/soak:latest"); err != nil {
				t.Fatalf("build %d: %v", n, err)
			}
		}
		for range warm {
			one()
		}
		before := p.settled(t, top, cgroups)
		heap, resident := memory(t)
		for range builds {
			one()
		}
		after := p.settled(t, top, cgroups)
		if after.more(before) {
			t.Errorf("after %d builds there are %v, before them there were %v\n%s", builds, after, before, stacks())
		}
		heapAfter, residentAfter := memory(t)
		for _, m := range []struct {
			what          string
			before, after int64
			noise         int64
		}{{"heap", heap, heapAfter, heapNoise}, {"resident memory", resident, residentAfter, residentNoise}} {
			allowed := max(m.noise, m.before*int64(builds)/1000/100) // 1 % in 1,000 builds
			if m.after-m.before > allowed {
				t.Errorf("%d builds grew the %s from %d to %d KiB", builds, m.what, m.before>>10, m.after>>10)
			}
		}
		torture.Figure(t, "T11", "%d whole builds one after another in one process (user %d), after %d to get warm: before them there were %v, after them %v; "+
			"%d and %d KiB in the heap, %.1f and %.1f MiB resident", builds, os.Getuid(), warm, before, after, heap>>10, heapAfter>>10,
			float64(resident)/(1<<20), float64(residentAfter)/(1<<20))
	})
}

// stacks are those of all goroutines.
func stacks() string {
	b := make([]byte, 1<<20)
	return string(slices.Clip(b[:runtime.Stack(b, true)]))
}
