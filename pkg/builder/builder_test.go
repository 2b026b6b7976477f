package builder_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/builder"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/test/harness"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
)

func start(t *testing.T, p harness.Place) builder.Backend {
	t.Helper()
	b, err := builder.New(builder.Options{Root: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// base pulls the image and gives its layer back.
func base(t *testing.T, b builder.Backend, p harness.Place) builder.Image {
	t.Helper()
	img, l, err := b.GetImageAndReleasableLayer(t.Context(), p.Busybox, builder.GetImageAndLayerOptions{PullOption: builder.PullOptionPreferLocal})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	return img
}

// step runs one RUN of an interpreter and returns the image it makes.
func step(t *testing.T, b builder.Backend, parent string, script string) (image.ID, *container.Config) {
	t.Helper()
	ran := &container.Config{Image: parent, Cmd: []string{"/bin/sh", "-c", script}, Entrypoint: []string{""}}
	c, err := b.ContainerCreateIgnoreImagesArgsEscaped(t.Context(), builder.ContainerCreateConfig{Config: ran})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := builder.Run(t.Context(), b, c.ID, &out, &out); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	id, err := b.CommitBuildStep(t.Context(), builder.CommitConfig{ContainerID: c.ID, ContainerConfig: ran, Config: &container.Config{Cmd: []string{"sh"}}, Author: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ContainerRm(c.ID, &builder.ContainerRmConfig{}); err != nil {
		t.Fatal(err)
	}
	return id, ran
}

// output runs a command in an image.
func output(t *testing.T, b builder.Backend, img, script string) string {
	t.Helper()
	c, err := b.ContainerCreateIgnoreImagesArgsEscaped(t.Context(), builder.ContainerCreateConfig{
		Config: &container.Config{Image: img, Cmd: []string{"/bin/sh", "-c", script}, Entrypoint: []string{""}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.ContainerRm(c.ID, &builder.ContainerRmConfig{ForceRemove: true})
	var out bytes.Buffer
	if err := builder.Run(t.Context(), b, c.ID, &out, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestGetImageAndReleasableLayer(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		get := func(name string, o builder.GetImageAndLayerOptions) (builder.Image, builder.ROLayer, error) {
			return b.GetImageAndReleasableLayer(t.Context(), name, o)
		}
		img, l, err := get("", builder.GetImageAndLayerOptions{})
		if img != nil || err != nil || l.DiffID() != digest.FromBytes(make([]byte, 1024)) {
			t.Fatalf("scratch is %v, %v", img, err)
		}
		if _, _, err := get(p.Busybox, builder.GetImageAndLayerOptions{PullOption: builder.PullOptionNoPull}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an image that is not held, without pulling: %v", err)
		} else if _, ok := errors.AsType[interface {
			error
			NotFound()
		}](err); !ok {
			t.Errorf("%v has no method NotFound", err)
		}
		var progress bytes.Buffer
		img, l, err = get(p.Busybox, builder.GetImageAndLayerOptions{PullOption: builder.PullOptionForcePull, Output: &progress})
		if err != nil || img.OperatingSystem() != "linux" || img.RunConfig() == nil || !strings.Contains(progress.String(), `"status"`) {
			t.Fatalf("pulling: %v; progress %q", err, progress.String())
		}
		for range 2 {
			if err := l.Release(); err != nil {
				t.Errorf("Release: %v", err)
			}
		}
		again, l, err := get(img.ImageID(), builder.GetImageAndLayerOptions{PullOption: builder.PullOptionPreferLocal})
		if err != nil || again.ImageID() != img.ImageID() || l.ContentStoreDigest() != "" {
			t.Errorf("by ID: %v", err)
		}
		s390x := platforms.MustParse("linux/s390x")
		if _, _, err := get(p.Busybox, builder.GetImageAndLayerOptions{Platform: &s390x}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an image for another platform: %v", err)
		}
		progress.Reset()
		if _, _, err := get(p.Busybox, builder.GetImageAndLayerOptions{PullOption: builder.PullOptionForcePull, Platform: &s390x, Output: &progress}); err != nil ||
			!strings.Contains(progress.String(), "warning") {
			t.Errorf("pulling an image that is for another platform: %v, %q", err, progress.String())
		}
	})
}

// TestLayers: an interpreter's COPY: a writable layer, files below its Root, Commit, CreateImage.
func TestRWLayerAndCreateImage(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		base(t, b, p)
		img, ro, err := b.GetImageAndReleasableLayer(t.Context(), p.Busybox, builder.GetImageAndLayerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer ro.Release()
		rw, err := ro.NewRWLayer()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(rw.Root(), "etc", "copied"), []byte("by the interpreter\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		top, err := rw.Commit()
		if err != nil {
			t.Fatal(err)
		}
		defer top.Release()
		for range 2 {
			if err := rw.Release(); err != nil {
				t.Errorf("Release: %v", err)
			}
		}
		child := image.NewChildImage(img.(*image.Image), image.ChildConfig{DiffID: top.DiffID(), ContainerConfig: &container.Config{Cmd: []string{"#(nop) COPY"}}}, "linux")
		config, err := json.Marshal(child)
		if err != nil {
			t.Fatal(err)
		}
		made, err := b.CreateImage(t.Context(), config, img.ImageID(), top.ContentStoreDigest())
		if err != nil {
			t.Fatal(err)
		}
		if made.ImageID() != digest.FromBytes(config).String() {
			t.Errorf("the image is %s", made.ImageID())
		}
		if got := output(t, b, made.ImageID(), "cat /etc/copied"); got != "by the interpreter\n" {
			t.Errorf("the container reads %q", got)
		}
	})
}

func TestReleaseableLayer(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		_, ro, err := b.GetImageAndReleasableLayer(t.Context(), "", builder.GetImageAndLayerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		l := builder.NewReleaseableLayer(ro)
		dir, err := l.Mount()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		top, err := l.Commit()
		if err != nil || top.DiffID() == l.DiffID() {
			t.Fatalf("Commit: %v", err)
		}
		if err := errors.Join(top.Release(), l.Release(), l.Release()); err != nil {
			t.Error(err)
		}
	})
}

// TestCommitBuildStep: RUN makes a layer, a container that never ran does not, and history says what ran.
func TestCommitBuildStep(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		from := base(t, b, p)
		id, _ := step(t, b, from.ImageID(), "echo one > /one")
		got, _, err := b.GetImageAndReleasableLayer(t.Context(), id.String(), builder.GetImageAndLayerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		img := got.(*image.Image)
		h := img.History[len(img.History)-1]
		if len(img.RootFS.DiffIDs) != 2 || h.CreatedBy != "/bin/sh -c echo one > /one" || h.EmptyLayer || h.Author != "ann" || img.Config.Cmd[0] != "sh" {
			t.Errorf("the image is %+v, its last step %+v", img, h)
		}
		c, err := b.ContainerCreateIgnoreImagesArgsEscaped(t.Context(), builder.ContainerCreateConfig{Config: &container.Config{Image: id.String()}})
		if err != nil {
			t.Fatal(err)
		}
		empty, err := b.(builder.OlderBackend).Commit(c.ID, &builder.CommitConfig{ContainerConfig: &container.Config{Cmd: []string{"#(nop) ENV a=b"}}})
		if err != nil {
			t.Fatal(err)
		}
		got, _, err = b.GetImageAndReleasableLayer(t.Context(), empty, builder.GetImageAndLayerOptions{})
		if err != nil || len(got.(*image.Image).RootFS.DiffIDs) != 2 {
			t.Errorf("a step without a container that ran: %v", err)
		}
		if out := output(t, b, empty, "cat /one"); out != "one\n" {
			t.Errorf("%q", out)
		}
	})
}

// TestExecBackend: a failing command has its code, a cancelled one is removed, a directory is made.
func TestExecBackend(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		from := base(t, b, p)
		create := func(script string) string {
			t.Helper()
			c, err := b.ContainerCreateIgnoreImagesArgsEscaped(t.Context(), builder.ContainerCreateConfig{
				Config: &container.Config{Image: from.ImageID(), Cmd: []string{"sh", "-c", script}, WorkingDir: "/made/here", Env: []string{"A=1"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			return c.ID
		}
		id := create("pwd; echo $A; test -n \"$PATH\"; echo err >&2; exit 4")
		if err := b.ContainerCreateWorkdir(id); err != nil {
			t.Fatal(err)
		}
		var out, errOut bytes.Buffer
		err := builder.Run(t.Context(), b, id, &out, &errOut)
		if code, ok := errors.AsType[*builder.StatusCodeError](err); !ok || code.StatusCode() != 4 || out.String() != "/made/here\n1\n" || errOut.String() != "err\n" {
			t.Errorf("%v; stdout %q, stderr %q", err, out.String(), errOut.String())
		}
		ended, err := b.ContainerWait(t.Context(), id, container.WaitConditionRemoved)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.ContainerRm(id, nil); err != nil {
			t.Fatal(err)
		}
		if st := <-ended; st.ExitCode() != 4 || st.Err() != nil {
			t.Errorf("it ended with %d, %v", st.ExitCode(), st.Err())
		}
		if err := b.ContainerRm(id, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("removing it again: %v", err)
		}

		id = create("sleep 1000")
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := builder.Run(ctx, b, id, io.Discard, io.Discard); !errors.Is(err, builder.ErrCancelled) {
			t.Errorf("a cancelled run: %v", err)
		}
		if _, err := b.ContainerWait(t.Context(), id, ""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the container of a cancelled run: %v", err)
		}
		if err := b.ContainerStart(t.Context(), create("true"), "checkpoint", ""); err == nil {
			t.Error("a container was started from a checkpoint")
		}
	})
}

// TestHostConfig: what cannot be had is an error.
func TestHostConfig(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		from := base(t, b, p)
		create := func(h container.HostConfig) (string, error) {
			c, err := b.ContainerCreateIgnoreImagesArgsEscaped(t.Context(), builder.ContainerCreateConfig{
				Config: &container.Config{Image: from.ImageID(), Cmd: []string{"sh", "-c", "grep -c extra /etc/hosts; wc -l < /proc/net/route; ulimit -n"}}, HostConfig: &h,
			})
			return c.ID, err
		}
		for name, h := range map[string]container.HostConfig{
			"memory": {Resources: container.Resources{Memory: 1 << 30}}, "capabilities": {CapAdd: []string{"SYS_ADMIN"}},
			"network": {NetworkMode: "container:x"}, "security": {SecurityOpt: []string{"seccomp=unconfined"}}, "isolation": {Isolation: "hyperv"},
			"read-only": {ReadonlyRootfs: true},
		} {
			if _, err := create(h); err == nil {
				t.Errorf("%s is accepted", name)
			}
		}
		id, err := create(container.HostConfig{
			NetworkMode: "none", ExtraHosts: []string{"extra:10.0.0.1"}, LogConfig: container.LogConfig{Type: "none"},
			Resources: container.Resources{Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 99, Hard: 99}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := builder.Run(t.Context(), b, id, &out, &out); err != nil || out.String() != "1\n1\n99\n" {
			t.Errorf("%v: %q", err, out.String())
		}
	})
}

// TestImageCache follows the rules of the local cache and of --cache-from.
func TestImageCache(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		from := base(t, b, p)
		platform := platforms.DefaultSpec()
		probe := func(cacheFrom []string, parent string, cfg *container.Config) string {
			t.Helper()
			c, err := b.MakeImageCache(t.Context(), cacheFrom)
			if err != nil {
				t.Fatal(err)
			}
			id, err := c.GetCache(parent, cfg, platform)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		one, ranOne := step(t, b, from.ImageID(), "echo one > /one")
		two, ranTwo := step(t, b, one.String(), "echo two > /two")
		other := *ranOne
		other.Cmd = []string{"true"}
		elsewhere := *ranOne
		elsewhere.Hostname, elsewhere.Image = "other", "other"
		for name, tt := range map[string]struct {
			cacheFrom []string
			parent    string
			cfg       *container.Config
			want      string
		}{
			"a hit":                           {nil, from.ImageID(), ranOne, one.String()},
			"image and hostname do not count": {nil, from.ImageID(), &elsewhere, one.String()},
			"another command":                 {nil, from.ImageID(), &other, ""},
			"no config":                       {nil, from.ImageID(), nil, ""},
			"another parent":                  {nil, one.String(), ranOne, ""},
			"the second step":                 {nil, one.String(), ranTwo, two.String()},
			"leads to the source":             {[]string{two.String()}, from.ImageID(), ranOne, one.String()},
			"an unknown source":               {[]string{"localhost/none:1"}, from.ImageID(), ranOne, ""},
		} {
			if got := probe(tt.cacheFrom, tt.parent, tt.cfg); got != tt.want {
				t.Errorf("%s: %q, want %q", name, got, tt.want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.MakeImageCache(ctx, []string{"x"}); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled cache: %v", err)
		}
	})
}

func archiveOf(t *testing.T, mtime time.Time, files map[string]string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: mtime}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			h.Typeflag, h.Linkname, h.Size, content = tar.TypeSymlink, target, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// TestSourceHash: time does not count, content and mode do, links are followed inside, and outside is forbidden.
func TestSourceHash(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name), []byte(content), mode), os.Chmod(filepath.Join(dir, name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "content", 0o644)
	if err := errors.Join(os.Symlink("/a", filepath.Join(dir, "link")), os.Symlink("/etc/passwd", filepath.Join(dir, "broken"))); err != nil {
		t.Fatal(err)
	}
	hash := func(name string) string {
		t.Helper()
		s, err := builder.NewLazySource(dir)
		if err != nil {
			t.Fatal(err)
		}
		h, err := s.Hash(name)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	first := hash("a")
	if err := os.Chtimes(filepath.Join(dir, "a"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if len(first) != 64 || hash("a") != first || hash("link") != first || hash("/a") != first {
		t.Error("a time, a link or a slash changes the hash")
	}
	write("a", "content", 0o600)
	if hash("a") == first {
		t.Error("the mode does not count")
	}
	for _, name := range []string{"missing", "broken", "/"} {
		if got := hash(name); got != name {
			t.Errorf("the hash of %s is %s", name, got)
		}
	}
	s, err := builder.NewLazySource(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hash("../outside"); !errors.Is(err, builder.ErrOutsideContext) {
		t.Errorf("a path outside: %v", err)
	}
}

// TestSourceFromArchive: the same for a tar, whose temporary directory goes with Close.
func TestSourceFromArchive(t *testing.T) {
	open := func(mtime time.Time) builder.Source {
		t.Helper()
		s, err := builder.FromArchive(t.Context(), archiveOf(t, mtime, map[string]string{"dir/a": "content", "link": "-> dir/a", "../escape": "x"}))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, two := open(time.Unix(1, 0)), open(time.Unix(2, 0))
	defer two.Close()
	a, err := one.Hash("dir/a")
	b, berr := two.Hash("link")
	if err != nil || berr != nil || a != b || len(a) != 64 {
		t.Errorf("%s, %v; %s, %v", a, err, b, berr)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(one.Root()), "escape")); err == nil {
		t.Error("A TAR HAS WRITTEN OUTSIDE OF ITS DIRECTORY!")
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(one.Root()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary directory is left: %v", err)
	}
}

// TestImageCacheFrom: an image that somebody else has built answers for its steps one after the other, also without their images.
func TestImageCacheFrom(t *testing.T) {
	harness.Again(t, func(t *testing.T, p harness.Place) {
		b := start(t, p)
		from := base(t, b, p)
		one, ranOne := step(t, b, from.ImageID(), "echo one > /one")
		two, ranTwo := step(t, b, one.String(), "echo two > /two")
		got, _, err := b.GetImageAndReleasableLayer(t.Context(), two.String(), builder.GetImageAndLayerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// The same image by another author has no parents here.
		foreign := *got.(*image.Image)
		foreign.Author = "somebody else"
		config, err := foreign.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		source, err := b.CreateImage(t.Context(), config, "", "")
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.MakeImageCache(t.Context(), []string{"localhost/unknown:1", source.ImageID()})
		if err != nil {
			t.Fatal(err)
		}
		first, err := c.GetCache(from.ImageID(), ranOne, platforms.DefaultSpec())
		if err != nil || first == "" || first == one.String() {
			t.Fatalf("the first step is %q, %v; want an image with the source's author", first, err)
		}
		if out := output(t, b, first, "cat /one; test ! -e /two"); out != "one\n" {
			t.Errorf("the first step says %q", out)
		}
		second, err := c.GetCache(first, ranTwo, platforms.DefaultSpec())
		if err != nil || second != source.ImageID() {
			t.Errorf("the second step is %q, %v; want the source itself", second, err)
		}
		if miss, err := c.GetCache(first, ranOne, platforms.DefaultSpec()); err != nil || miss != "" {
			t.Errorf("another command is %q, %v", miss, err)
		}
	})
}
