package export_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/export/exporttest"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// faulty is a registry whose first answers to blobs are an error.
type faulty struct {
	*pushes
	mu    sync.Mutex
	err   error
	times int
	tried chan struct{}
}

func (f *faulty) PushBlob(ctx context.Context, repo string, d ocispec.Descriptor, up registry.Upload) error {
	f.mu.Lock()
	f.times--
	fail := f.times >= 0
	f.mu.Unlock()
	defer func() { f.tried <- struct{}{} }()
	if fail {
		return f.err
	}
	return f.pushes.PushBlob(ctx, repo, d, up)
}

// begin offers a layer of the fixture to a delivery and waits until the registry was asked.
func begin(t *testing.T, f *exporttest.Fixture, p *faulty) *export.Delivery {
	t.Helper()
	p.tried = make(chan struct{}, 100)
	f.Deps.Registry = p
	f.Request.Names = []string{"example.com/a:v1"}
	x, err := export.Begin(t.Context(), parse(t, "type=registry"), f.Request, f.Deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Stop)
	x.Offer(f.Request.Images[0].Layers[0].Layer, false)
	<-p.tried
	return x
}

func TestDelivery(t *testing.T) {
	f := exporttest.New(t)
	p := &faulty{pushes: newPushes()}
	x := begin(t, f, p)
	if p.count != 1 || len(p.refs) != 0 {
		t.Errorf("%d blobs and %d manifests were pushed before the image was there", p.count, len(p.refs))
	}
	r, err := x.Finish(t.Context(), f.Request.Images)
	if err != nil {
		t.Fatal(err)
	}
	if p.count != 4 || len(p.refs) != 1 {
		t.Errorf("%d blobs and %d manifests were pushed", p.count, len(p.refs))
	}
	if plain := do(t, exporttest.New(t), "type=image"); plain.Set.Descriptor.Digest != r.Set.Descriptor.Digest {
		t.Error("the image is another one")
	}
}

func TestDeliveryTriesAgain(t *testing.T) {
	f := exporttest.New(t)
	f.Deps.Refused = func(err error) { t.Errorf("it stops for %v", err) }
	p := &faulty{pushes: newPushes(), times: 1, err: errors.New("the line is down")}
	if _, err := begin(t, f, p).Finish(t.Context(), f.Request.Images); err != nil {
		t.Error(err)
	}
	p.pushes, p.times = newPushes(), 2
	if _, err := begin(t, f, p).Finish(t.Context(), f.Request.Images); !errors.Is(err, p.err) {
		t.Errorf("the second failure is %v", err)
	}
}

func TestDeliveryIsRefused(t *testing.T) {
	f := exporttest.New(t)
	refused := make(chan error, 1)
	f.Deps.Refused = func(err error) { refused <- err }
	want := &registry.Error{Op: "pushing", Ref: "example.com/a", Status: http.StatusForbidden}
	begin(t, f, &faulty{pushes: newPushes(), times: 100, err: want})
	if err := <-refused; !errors.Is(err, want) {
		t.Errorf("refused with %v", err)
	}
}

// TestBeginRefusesDestinations: what cannot be written at the end is refused before anything is built, and nothing is left of the trial.
func TestBeginRefusesDestinations(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := exporttest.New(t)
	for output, want := range map[string]error{
		"type=oci,dest=" + dir:                          syscall.EISDIR,
		"type=tar,dest=" + dir + "/none/x":              syscall.ENOENT,
		"type=docker,dest=" + file + "/x":               syscall.ENOTDIR,
		"type=local,dest=" + file:                       syscall.ENOTDIR,
		"type=oci,tar=false,dest=" + file:               syscall.ENOTDIR,
		"type=oci,dest=" + file:                         nil,
		"type=oci,dest=/dev/null":                       nil,
		"type=local,dest=" + dir + "/none/which/is/new": nil,
	} {
		x, err := export.Begin(t.Context(), parse(t, output), f.Request, f.Deps)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", output, err, want)
		}
		if err == nil {
			x.Stop()
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

type sink func(progress.Event)

func (s sink) Event(e progress.Event) { s(e) }

// TestEqualOutputs: each has vertices of its own.
func TestEqualOutputs(t *testing.T) {
	f := exporttest.New(t)
	var mu sync.Mutex
	seen := map[string]int{}
	ctx := progress.With(t.Context(), sink(func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == progress.Completed {
			seen[e.Vertex]++
		}
	}))
	for f.Request.Number = range 2 {
		f.Deps.Registry = newPushes()
		if _, err := export.Export(ctx, parse(t, "type=registry,name=example.com/a"), f.Request, f.Deps); err != nil {
			t.Fatal(err)
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("vertex %s ended %d times", id, n)
		}
	}
	if len(seen) < 2 {
		t.Errorf("%v", seen)
	}
}
