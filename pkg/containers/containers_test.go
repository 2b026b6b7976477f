package containers_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/containers"
	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/cairn-build/cairn/pkg/containers/gc"
	"github.com/cairn-build/cairn/test/harness"
)

func start(t *testing.T, p harness.Place, more ...containers.Option) *containers.Client {
	t.Helper()
	c, err := containers.New(append(more, containers.WithNative(core.NativeConfig{Root: p.Root}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func contextTar(t *testing.T, dockerfile string, compress bool) io.Reader {
	t.Helper()
	var b bytes.Buffer
	var out io.WriteCloser = nopCloser{&b}
	if compress {
		out = gzip.NewWriter(&b)
	}
	w := tar.NewWriter(out)
	err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(dockerfile))})
	if err == nil {
		_, err = io.WriteString(w, dockerfile)
	}
	if err = errors.Join(err, w.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	return &b
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func run(t *testing.T, i *containers.DockerImage, options ...containers.ContainerOption) (string, error) {
	t.Helper()
	c, err := i.Instantiate(t.Context(), options...)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := c.Run(t.Context())
	if logs == nil {
		return "", err
	}
	out, rerr := io.ReadAll(logs.Combined())
	if rerr != nil {
		t.Fatal(rerr)
	}
	return string(out), err
}

func sh(script string) containers.ContainerOption {
	return containers.Command([]string{"/bin/sh", "-c", script})
}

// TestImage follows Client.Image through its ways: pull, build, build of what exists, ForceRebuild, fall back to the local image.
func TestImage(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c, ctx := start(t, p), t.Context()
		pulled, err := c.Image(ctx, p.Busybox)
		if err != nil || !pulled.Exists(ctx) || pulled.Name() != p.Busybox {
			t.Fatalf("pulling: %v", err)
		}
		const name = "localhost/image-test:1"
		dockerfile := func(word string) io.Reader {
			return contextTar(t, "FROM "+p.Busybox+"\nRUN echo "+word+" > /word\n", word == "one")
		}
		says := func(want string, o containers.ImageOption) {
			t.Helper()
			i, err := c.Image(ctx, name, o)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := run(t, i, sh("cat /word")); got != want+"\n" || err != nil {
				t.Errorf("it says %q, %v; want %q", got, err, want)
			}
		}
		says("one", containers.Build(dockerfile("one")))
		// It exists: the tarball is not read, the pull fails, and what is there is taken.
		unread := dockerfile("two")
		says("one", containers.Build(unread))
		if rest, _ := io.ReadAll(unread); len(rest) == 0 {
			t.Error("the context of an image that exists was read")
		}
		containers.ForceRebuild = true
		defer func() { containers.ForceRebuild = false }()
		says("three", containers.Build(dockerfile("three")))
	})
}

// Dockerfile builds from one file, and Output shows how.
func TestDockerfileAndOutput(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c := start(t, p)
		file := filepath.Join(t.TempDir(), "Dockerfile")
		if err := os.WriteFile(file, []byte("FROM "+p.Busybox+"\nRUN echo shown while building\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := c.Image(t.Context(), "localhost/file:1", containers.Dockerfile(file), containers.Output(&out)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "shown while building") {
			t.Errorf("the output is %q", out.String())
		}
		if _, err := c.Image(t.Context(), "x", containers.Dockerfile(filepath.Dir(file))); !errors.Is(err, containers.ErrorImageOptions) {
			t.Errorf("a directory: %v", err)
		}
	})
}

// TestPullStatus: every layer is reported, and nobody has to listen.
func TestPullStatus(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c := start(t, p)
		i, err := c.Image(t.Context(), p.Busybox)
		if err != nil {
			t.Fatal(err)
		}
		status := make(chan containers.PullStatus, 1000)
		if got, err := i.Pull(t.Context(), status); err != nil || got != i {
			t.Fatal(err)
		}
		close(status)
		layers := map[string]bool{}
		for s := range status {
			if s.Id != "" && s.ProgressDetail.Total > 0 {
				layers[s.Id] = true
			}
		}
		if len(layers) != 1 {
			t.Errorf("layers %v were reported; the image has one", layers)
		}
		if _, err := i.Pull(t.Context(), make(chan containers.PullStatus)); err != nil {
			t.Errorf("nobody listens: %v", err)
		}
	})
}

// TestRun: logs and an error for another code than 0, the streams apart, and nothing left.
func TestRun(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c := start(t, p)
		i, err := c.Image(t.Context(), p.Busybox)
		if err != nil {
			t.Fatal(err)
		}
		out, err := run(t, i, sh("echo the compiler says no; exit 3"))
		if !errors.Is(err, containers.ErrorExitCode) || !strings.Contains(err.Error(), "exit-code:3") || out != "the compiler says no\n" {
			t.Errorf("%q, %v", out, err)
		}
		dir := t.TempDir()
		out, err = run(t, i, sh("pwd; echo $A $B $C; touch /data/made"), containers.WorkDir("/tmp"), containers.Variable("A", "1"),
			containers.Variables(map[string]string{"B": "2", "C": "3"}), containers.Volume(dir, "/data"))
		if out != "/tmp\n1 2 3\n" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
			t.Error(err)
		}
		if out, err := run(t, i, containers.Shell([]string{"/bin/sh", "-c"}), containers.Command([]string{"echo a line | tr a-z A-Z"})); out != "A LINE\n" || err != nil {
			t.Errorf("a line for a shell: %q, %v", out, err)
		}
		if _, err := i.Instantiate(t.Context(), containers.Variable("A=B", "c")); !errors.Is(err, containers.ErrorContainerOptions) {
			t.Errorf("a wrong option: %v", err)
		}
		if _, err := i.Instantiate(t.Context(), containers.RestrictedEgress()); !errors.Is(err, containers.ErrorContainerCreate) || !errors.Is(err, core.ErrNotSupported) {
			t.Errorf("restricted egress: %v", err)
		}
		if _, err := run(t, i, containers.Command([]string{"/no/such"})); !errors.Is(err, containers.ErrorContainerStart) {
			t.Errorf("a command that does not exist: %v", err)
		}
	})
}

func TestSeparated(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c := start(t, p)
		i, err := c.Image(t.Context(), p.Busybox)
		if err != nil {
			t.Fatal(err)
		}
		container, err := i.Instantiate(t.Context(), sh("echo out; echo err >&2"))
		if err != nil {
			t.Fatal(err)
		}
		logs, err := container.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stdout, stderr := logs.Separated()
		errText := make(chan string)
		go func() {
			b, _ := io.ReadAll(stderr)
			errText <- string(b)
		}()
		b, err := io.ReadAll(stdout)
		if e := <-errText; err != nil || string(b) != "out\n" || e != "err\n" {
			t.Errorf("stdout %q, stderr %q, %v", b, e, err)
		}
	})
}

// TestRunCancelled: the container is removed although the caller has no time left.
func TestRunCancelled(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c := start(t, p)
		i, err := c.Image(t.Context(), p.Busybox)
		if err != nil {
			t.Fatal(err)
		}
		container, err := i.Instantiate(t.Context(), sh("sleep 1000"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if logs, err := container.Run(ctx); !errors.Is(err, containers.ErrorContainerWait) || logs != nil {
			t.Errorf("a run without time: %v", err)
		}
		if _, err := c.Backend().Inspect(t.Context(), container.ID()); err == nil {
			t.Error("the container is still there")
		}
	})
}

// TestSentinels: what goes wrong has its name.
func TestSentinels(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c := start(t, p)
		registry, _, _ := strings.Cut(p.Busybox, "/")
		none := registry + "/no/such/image"
		_, err := c.Image(t.Context(), none)
		if !errors.Is(err, containers.ErrorImagePull) || !errors.Is(err, containers.ErrorClientPull) {
			t.Errorf("an image that does not exist: %v", err)
		}
		_, err = c.Image(t.Context(), none, containers.Build(contextTar(t, "FROM "+p.Busybox+"\nRUN false\n", false)))
		if !errors.Is(err, containers.ErrorImageBuild) || !errors.Is(err, containers.ErrorImageBuildDockerFile) {
			t.Errorf("a build that fails: %v", err)
		}
		_, err = c.Image(t.Context(), none, containers.Build(contextTar(t, "FROM scratch\n", false)), containers.RestrictedBuildEgress())
		if !errors.Is(err, core.ErrNotSupported) {
			t.Errorf("a build with restricted egress: %v", err)
		}
	})
}

func TestBackends(t *testing.T) {
	if !slices.Contains(containers.AvailableBackends(), core.BackendTypeNative) {
		t.Errorf("available are %v", containers.AvailableBackends())
	}
	for _, c := range []core.BackendConfig{core.FirecrackerConfig{}, core.NanosConfig{}} {
		if _, err := containers.NewBackend(c); !errors.Is(err, containers.ErrBackendNotAvailable) {
			t.Errorf("%s: %v", c.BackendType(), err)
		}
	}
	b, err := containers.NewBackend(core.NativeConfig{Root: filepath.Join(t.TempDir(), "store")})
	if err != nil || b.BackendType() != core.BackendTypeNative {
		t.Fatal(err)
	}
	if err := b.(io.Closer).Close(); err != nil {
		t.Error(err)
	}
}

// TestGC: a round comes after an interval, and the last one with the end of the context.
func TestGC(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c := start(t, p, containers.Verbose())
		i, err := c.Image(t.Context(), "localhost/old:1", containers.Build(contextTar(t, "FROM "+p.Busybox+"\nRUN true\nLABEL old=yes\n", false)),
			containers.Output(io.Discard))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err = gc.Start(ctx, gc.Client(c), gc.Interval(50*time.Millisecond), gc.MaxAge(0), gc.Filter("label", "old=yes"), gc.Reference("localhost/old"),
			gc.OnError(func(err error) { t.Error(err) }))
		if err != nil {
			t.Fatal(err)
		}
		harness.WaitFor(t, 20*time.Second, "the image is removed", func() bool { return !i.Exists(t.Context()) })
		if err := gc.Start(ctx, gc.Interval(0)); err == nil {
			t.Error("an interval of nothing is accepted")
		}
	})
}

// TestCleanAge: Clean by name and age, through the client.
func TestCleanAge(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c := start(t, p)
		i, err := c.Image(t.Context(), "localhost/clean:1", containers.Build(contextTar(t, "FROM "+p.Busybox+"\nRUN true\n", false)))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Clean(t.Context(), time.Hour, "localhost/clean"); err != nil || !i.Exists(t.Context()) {
			t.Errorf("a young image was removed, %v", err)
		}
		if err := c.CleanFilter(t.Context(), 0, containers.NewFilter("reference", "localhost/clean").Add("dangling", "false")); err != nil || i.Exists(t.Context()) {
			t.Errorf("an old image is still there, %v", err)
		}
	})
}

// TestPush: what was built goes to a registry, and comes back.
func TestPush(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		c := start(t, p)
		registry, _, _ := strings.Cut(p.Busybox, "/")
		name := registry + "/pushed:1"
		i, err := c.Image(t.Context(), name, containers.Build(contextTar(t, "FROM "+p.Busybox+"\nRUN echo pushed > /word\n", false)))
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Push(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := i.Pull(t.Context(), nil); err != nil {
			t.Errorf("pulling what was pushed: %v", err)
		}
	})
}
