package engine_test

import (
	"archive/tar"
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
	"github.com/cairn-build/cairn/pkg/engine"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/test/harness"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/pkg/stdcopy"
)

func start(t *testing.T, p harness.Place) *engine.Engine {
	t.Helper()
	e, err := engine.Start(t.Context(), engine.Options{Root: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// busybox pulls the image and returns its layers.
func busybox(t *testing.T, e *engine.Engine, p harness.Place) []layer.Layer {
	t.Helper()
	client, err := e.Client(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	images := e.Remote(client, true)
	if _, _, err := images.Pull(t.Context(), p.Busybox, platforms.DefaultSpec()); err != nil {
		t.Fatal(err)
	}
	set, err := e.Images().Get(p.Busybox)
	if err != nil {
		t.Fatal(err)
	}
	return set.Images[0].Layers
}

func sh(chain []layer.Layer, script string) engine.ContainerSpec {
	return engine.ContainerSpec{Chain: chain, Spec: executor.Spec{Process: executor.Process{Args: []string{"/bin/sh", "-c", script}}}}
}

// run creates and starts a container and waits for its end.
func run(t *testing.T, e *engine.Engine, spec engine.ContainerSpec) (stdout, stderr string, st engine.ContainerState) {
	t.Helper()
	ctx := t.Context()
	id, err := e.CreateContainer(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	if st, err = e.WaitContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	logs, err := e.ContainerLogs(ctx, id, false)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var out, errOut bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errOut, logs); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveContainer(ctx, id, false); err != nil {
		t.Fatal(err)
	}
	if _, err := e.InspectContainer(ctx, id); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removed container can be inspected: %v", err)
	}
	return out.String(), errOut.String(), st
}

func TestContainer(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		e := start(t, p)
		chain := busybox(t, e, p)
		stdout, stderr, st := run(t, e, sh(chain, "id -u; echo oops >&2; exit 3"))
		if stdout != "0\n" || stderr != "oops\n" || st.ExitCode != 3 || st.Status != engine.Exited {
			t.Errorf("stdout %q, stderr %q, state %+v", stdout, stderr, st)
		}
	})
}

func TestCommandNotFound(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		e := start(t, p)
		spec := sh(busybox(t, e, p), "")
		spec.Spec.Process.Args = []string{"/nowhere"}
		id, err := e.CreateContainer(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		err = e.StartContainer(t.Context(), id)
		if exit, ok := errors.AsType[*executor.ExitError](err); !ok || exit.Code != 127 {
			t.Errorf("starting it: %v, want exit code 127", err)
		}
	})
}

// Attaching before the start misses nothing, and stdin reaches the process.
func TestAttach(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		e := start(t, p)
		spec := sh(busybox(t, e, p), "cat; echo done >&2")
		spec.NoLog = true
		id, err := e.CreateContainer(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		in := strings.Repeat("line\n", 50_000)
		var out, errOut bytes.Buffer
		attached, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- e.AttachContainer(t.Context(), id, engine.Streams{Stdin: strings.NewReader(in), Stdout: &out, Stderr: &errOut},
				func() { close(attached) })
		}()
		<-attached
		if err := e.StartContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if out.String() != in || errOut.String() != "done\n" {
			t.Errorf("%d bytes in, %d out, stderr %q", len(in), out.Len(), errOut.String())
		}
		if _, err := e.ContainerLogs(t.Context(), id, false); err != nil {
			t.Error(err)
		}
	})
}

func TestStop(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		e := start(t, p)
		chain := busybox(t, e, p)
		for name, tt := range map[string]struct {
			script string
			grace  time.Duration
			code   int
		}{
			"handles SIGTERM": {"trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done", time.Minute, 7},
			"killed":          {"trap '' TERM; echo ready; while :; do sleep 0.1; done", 0, 137},
		} {
			id, err := e.CreateContainer(t.Context(), sh(chain, tt.script))
			if err != nil {
				t.Fatal(err)
			}
			if err := e.StartContainer(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			logs, err := e.ContainerLogs(t.Context(), id, true)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(logs, make([]byte, 8+len("ready\n"))); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time there is nothing to stop
				if err := e.StopContainer(t.Context(), id, 0, tt.grace); err != nil {
					t.Fatal(err)
				}
			}
			st, err := e.InspectContainer(t.Context(), id)
			if err != nil || st.ExitCode != tt.code || st.Status != engine.Exited {
				t.Errorf("%s: %+v, %v; want exit code %d", name, st, err, tt.code)
			}
			logs.Close()
		}
	})
}

// What the importer writes below Root is in the layer, and the layer can be run.
func TestLayers(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		e := start(t, p)
		ro, err := e.Open(t.Context(), busybox(t, e, p))
		if err != nil {
			t.Fatal(err)
		}
		rw, err := ro.NewRWLayer()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(rw.Root(), "hello"), []byte("from outside"), 0o644); err != nil {
			t.Fatal(err)
		}
		top, err := rw.Commit()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := errors.Join(rw.Release(), ro.Release()); err != nil {
				t.Errorf("releasing: %v", err)
			}
		}
		stdout, _, _ := run(t, e, sh(top.Chain(), "cat /hello; stat -c %u /hello"))
		if stdout != "from outside0\n" {
			t.Errorf("the container reads %q", stdout)
		}
		if err := top.Release(); err != nil {
			t.Error(err)
		}
	})
}

func contextTar(t *testing.T, dockerfile string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(dockerfile))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, dockerfile); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// lines collects the output of a build.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Event(e progress.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(e.Data)
}

func TestBuild(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		e := start(t, p)
		var out lines
		res, err := e.Build(t.Context(), engine.BuildRequest{
			Context: "-", Stdin: contextTar(t, "FROM "+p.Busybox+"\nARG WHO\nRUN echo hello $WHO | tee /greeting\n"), Tags: []string{"greeting"},
			BuildArgs: map[string]string{"WHO": "ann"},
		}, &out)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.text.String(), "hello ann") || res.ImageID == "" {
			t.Errorf("progress %q, result %+v", out.text.String(), res)
		}
		set, err := e.Images().Get("greeting")
		if err != nil || set.ConfigDigest() != res.ImageID {
			t.Fatalf("the store has %v, %v", set.ConfigDigest(), err)
		}
		stdout, _, _ := run(t, e, sh(set.Images[0].Layers, "cat /greeting"))
		if stdout != "hello ann\n" {
			t.Errorf("the built image says %q", stdout)
		}
	})
}

// Errors keep their kind on this side.
func TestBuildErrors(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		e := start(t, p)
		build := func(ctx context.Context, dockerfile string) error {
			_, err := e.Build(ctx, engine.BuildRequest{Context: "-", Stdin: contextTar(t, dockerfile)}, nil)
			return err
		}
		err := build(t.Context(), "FROM "+p.Busybox+"\nRUN exit 9\n")
		if exit, ok := errors.AsType[*executor.ExitError](err); !ok || exit.Code != 9 {
			t.Errorf("a failing RUN: %v", err)
		}
		var at interface{ Excerpt() string }
		if !errors.As(err, &at) || !strings.Contains(at.Excerpt(), "RUN exit 9") {
			t.Errorf("no excerpt of the Dockerfile in %v", err)
		}
		if err := build(t.Context(), "FRO x\n"); err == nil || !strings.Contains(err.Error(), "FRO") {
			t.Errorf("a wrong Dockerfile: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if err := build(ctx, "FROM "+p.Busybox+"\nRUN sleep 100\n"); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a cancelled build: %v", err)
		}
		if time.Since(begun) > 30*time.Second {
			t.Errorf("a cancelled build took %v", time.Since(begun))
		}
		if err := e.Ping(t.Context()); err != nil {
			t.Errorf("the worker is gone after a cancelled build: %v", err)
		}
	})
}

// Two engines over one store do not see each other, and the end of one is not the other's.
func TestTwoEngines(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		one, two := start(t, p), start(t, p)
		chain := busybox(t, one, p)
		id, err := one.CreateContainer(t.Context(), sh(chain, "sleep 1000"))
		if err != nil {
			t.Fatal(err)
		}
		if err := one.StartContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := two.InspectContainer(t.Context(), id); err == nil {
			t.Error("one engine sees the other's container")
		}
		var wg sync.WaitGroup
		for _, e := range []*engine.Engine{one, two} {
			wg.Go(func() {
				if stdout, _, _ := run(t, e, sh(chain, "echo hi")); stdout != "hi\n" {
					t.Errorf("%q", stdout)
				}
			})
		}
		wg.Wait()
		if err := one.Close(); err != nil {
			t.Error(err)
		}
		if stdout, _, _ := run(t, two, sh(chain, "echo still here")); stdout != "still here\n" {
			t.Errorf("%q", stdout)
		}
	})
}

// A worker that is killed is an error of every call, and nothing hangs.
func TestWorkerKilled(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		e, err := engine.Start(t.Context(), engine.Options{Root: p.Root})
		if err != nil {
			t.Fatal(err)
		}
		id, err := e.CreateContainer(t.Context(), sh(busybox(t, e, p), "sleep 1000"))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.StartContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 1)
		go func() {
			_, err := e.WaitContainer(t.Context(), id)
			waiting <- err
		}()
		proc, err := os.FindProcess(e.WorkerPID())
		if err == nil {
			err = proc.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := <-waiting; err == nil {
			t.Error("waiting for a container of a killed worker is no error")
		}
		if err := e.Ping(t.Context()); err == nil {
			t.Error("a killed worker answers")
		}
		if err := e.Close(); err == nil {
			t.Error("closing says nothing of the worker's death")
		}
		start(t, p) // takes away what the dead have left on disk
	})
}
