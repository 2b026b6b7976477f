// Package image holds the end-to-end tests of the commands over the local store's images: what they print is what Docker's print, and
// archives go to and come from other people's tools.
package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// cairn runs a command over the home's store and ends the test if it fails.
func cairn(t *testing.T, h *harness.Home, command ...string) string {
	t.Helper()
	return try(h, command...).OK(t).Stdout
}

// try runs a command over the home's store.
func try(h *harness.Home, command ...string) harness.Result {
	return h.Cairn(append(append([]string{}, command...), "--root", h.Root)...)
}

// build builds an image of one small file on nothing and returns its ID.
func build(t *testing.T, h *harness.Home, content string, args ...string) string {
	t.Helper()
	dir := h.Files(map[string]string{
		"Dockerfile": "FROM scratch\nCOPY file /file\nLABEL content=" + content + "\nCMD [\"/file\"]\n", "file": content,
	})
	id := strings.TrimSpace(cairn(t, h, append(append([]string{"build", "-q"}, args...), dir)...))
	if !strings.HasPrefix(id, "sha256:") {
		t.Fatalf("cairn build -q printed %q", id)
	}
	return id
}

// podman runs podman with a store of its own.
func podman(t *testing.T, args ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests run podman as root")
	}
	return harness.Run(t, append([]string{"podman", "--root", filepath.Join(podmanDir(t), "root"), "--runroot", filepath.Join(podmanDir(t), "run"),
		"--storage-driver", "vfs", "--log-level", "error"}, args...)...)
}

func podmanDir(t *testing.T) string {
	return filepath.Join(os.TempDir(), "cairn-podman-"+strings.ReplaceAll(t.Name(), "/", "-"))
}

// TestSaveForOthers: podman, skopeo and umoci take what cairn saves: as Docker's archive and as an OCI layout.
func TestSaveForOthers(t *testing.T) {
	registry := &harness.Registry{} // only to judge
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		t.Cleanup(func() { _ = os.RemoveAll(podmanDir(t)) })
		h := harness.NewHome(t, u)
		one := build(t, h, "one", "-t", "example.com/one:v1", "-t", "example.com/one:v2")
		two := build(t, h, "two", "-t", "example.com/two")
		archive := h.Path("a.tar")
		cairn(t, h, "save", "-o", archive, "example.com/one", "example.com/two:latest")

		tags := harness.Run(t, "skopeo", "list-tags", "docker-archive:"+archive)
		for _, want := range []string{"example.com/one:v1", "example.com/one:v2", "example.com/two:latest"} {
			if !strings.Contains(tags, want) {
				t.Errorf("skopeo does not find %s in %s", want, tags)
			}
		}
		for _, source := range []string{"docker-archive:" + archive + ":example.com/one:v1", "oci-archive:" + archive + ":v1"} {
			if got := registry.Unpack(t, source).Read("file"); got != "one" {
				t.Errorf("%s: /file is %q", source, got)
			}
		}
		loaded := podman(t, "load", "-q", "-i", archive)
		if strings.Count(loaded, "Loaded image") == 0 {
			t.Errorf("podman load: %s", loaded)
		}
		images := podman(t, "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
		for _, want := range []string{"example.com/one:v1 " + one, "example.com/one:v2 " + one, "example.com/two:latest " + two} {
			if !strings.Contains(images, want) {
				t.Errorf("podman images without %q:\n%s", want, images)
			}
		}
		// As the user himself: the directories of the archive are such that he may enter them.
		if got := harness.Execute(t, h.Command("skopeo", "inspect", "--config", "oci-archive:"+archive+":v1")).OK(t).Stdout; !strings.Contains(got, "sha256:") {
			t.Errorf("skopeo inspect: %s", got)
		}
		// Through a pipe, which podman cannot read twice.
		if cairn(t, h, "save", "example.com/two") == "" {
			t.Error("nothing on standard output")
		}
	})
}

// TestSaveMultiPlatform: an image for several platforms keeps its digest through an archive.
func TestSaveMultiPlatform(t *testing.T) {
	registry := &harness.Registry{}
	h := harness.NewHome(t, harness.Unprivileged(t))
	dir := h.Files(map[string]string{"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /file\n", "amd64": "amd64", "arm64": "arm64"})
	cairn(t, h, "build", "-q", "--platform", "linux/amd64,linux/arm64", "-t", "multi:v1", dir)
	before := cairn(t, h, "images", "--digests", "--no-trunc", "--format", "{{.Digest}}")
	archive := h.Path("multi.tar")
	cairn(t, h, "save", "-o", archive, "multi:v1")
	if got := registry.Unpack(t, "docker-archive:"+archive).Read("file"); got != "amd64" && got != "arm64" {
		t.Errorf("Docker's part: /file is %q", got)
	}
	cairn(t, h, "rmi", "multi:v1")
	if out := cairn(t, h, "load", "-i", archive); out != "Loaded image: multi:v1\n" {
		t.Errorf("load printed %q", out)
	}
	if after := cairn(t, h, "images", "--digests", "--no-trunc", "--format", "{{.Digest}}"); after != before {
		t.Errorf("digest %s, was %s", after, before)
	}
	if got := cairn(t, h, "inspect", "--platform", "linux/arm64", "-f", "{{.Architecture}}", "multi:v1"); got != "arm64\n" {
		t.Errorf("inspect --platform: %q", got)
	}
	try(h, "save", "--platform", "linux/s390x", "-o", archive, "multi:v1").Fails(t, 1, "linux/s390x")
	cairn(t, h, "save", "--platform", "linux/arm64", "-o", h.Path("arm.tar"), "multi:v1")
	if got := registry.Unpack(t, "docker-archive:"+h.Path("arm.tar")).Read("file"); got != "arm64" {
		t.Errorf("save --platform: /file is %q", got)
	}
}

// TestLoadFromOthers: cairn takes what podman save, skopeo and go-containerregistry write.
func TestLoadFromOthers(t *testing.T) {
	t.Cleanup(func() { _ = os.RemoveAll(podmanDir(t)) })
	h := harness.NewHome(t, harness.Unprivileged(t))
	one := build(t, h, "one", "-t", "example.com/one:v1")
	two := build(t, h, "two", "-t", "example.com/two:v1")
	file := func(name string) string { return h.Path(name + ".tar") }
	cairn(t, h, "save", "-o", file("cairn"), "example.com/one", "example.com/two")
	podman(t, "load", "-q", "-i", file("cairn"))
	source := "docker-archive:" + file("cairn") + ":example.com/one:v1"
	podman(t, "save", "-q", "-o", file("podman-docker"), "example.com/one:v1")
	podman(t, "save", "-q", "-m", "-o", file("podman-multi"), "example.com/one:v1", "example.com/two:v1")
	podman(t, "save", "-q", "--format", "oci-archive", "-o", file("podman-oci"), "example.com/one:v1")
	harness.Run(t, "skopeo", "copy", "-q", source, "docker-archive:"+file("skopeo-docker")+":example.com/one:v1")
	harness.Run(t, "skopeo", "copy", "-q", source, "oci-archive:"+file("skopeo-oci")+":example.com/one:v1")
	harness.Run(t, "skopeo", "copy", "-q", source, "oci-archive:"+file("skopeo-unnamed"))
	harness.Run(t, "sh", "-c", "gzip < "+file("podman-docker")+" > "+file("gzip")+"; zstd -q < "+file("podman-oci")+" > "+file("zstd")+"; xz < "+file("podman-docker")+" > "+file("xz"))
	h.Own()

	named := "Loaded image: example.com/one:v1\n"
	for _, c := range []struct {
		archive, printed string
		// same says that the config, and so the ID, is that of the image built here; skopeo and podman write another for OCI.
		same bool
	}{
		{"cairn", named + "Loaded image: example.com/two:v1\n", true},
		{"podman-docker", named, true}, {"podman-multi", named + "Loaded image: example.com/two:v1\n", true}, {"podman-oci", named, false},
		{"skopeo-docker", named, true}, {"skopeo-oci", named, false}, {"skopeo-unnamed", "Loaded image ID: sha256:", false},
		{"gzip", named, true}, {"zstd", named, false}, {"xz", named, true},
	} {
		t.Run(c.archive, func(t *testing.T) {
			root := filepath.Join(h.Dir, "other-"+c.archive)
			load := h.Cairn("load", "--root", root, "-i", file(c.archive)).OK(t).Stdout
			if !strings.HasPrefix(load, c.printed) {
				t.Errorf("load printed %q, want %q", load, c.printed)
			}
			ids := h.Cairn("images", "--root", root, "--no-trunc", "-q").OK(t).Stdout
			if c.same && (!strings.Contains(ids, one) || strings.Count(c.printed, "\n") == 2 && !strings.Contains(ids, two)) {
				t.Errorf("IDs %q, built were %s and %s", ids, one, two)
			}
			// It can be saved again, and its content is right.
			id := strings.Fields(ids)[len(strings.Fields(ids))-1]
			if c.same {
				id = one
			}
			again := filepath.Join(h.Dir, "again-"+c.archive+".tar")
			h.Cairn("save", "--root", root, "-o", again, id).OK(t)
			if got := (&harness.Registry{}).Unpack(t, "docker-archive:"+again).Read("file"); got != "one" {
				t.Errorf("/file is %q", got)
			}
		})
	}
}

// TestLoadTarballOfLibrary: go-containerregistry's tarballs of one image and of several.
func TestLoadTarballOfLibrary(t *testing.T) {
	h := harness.NewHome(t, harness.Unprivileged(t))
	images := map[name.Tag]v1.Image{}
	ids := map[string]string{}
	for _, n := range []string{"example.com/a:v1", "example.com/b:v1"} {
		img, err := random.Image(10_000, 3)
		if err != nil {
			t.Fatal(err)
		}
		// random's config says no platform; one without is for this machine.
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		images[tag] = img
		id, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		ids[n] = id.String()
	}
	archive := h.Path("ggcr.tar")
	if err := tarball.MultiWriteToFile(archive, images); err != nil {
		t.Fatal(err)
	}
	h.Own()
	out := cairn(t, h, "load", "-i", archive)
	list := cairn(t, h, "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
	for n, id := range ids {
		if !strings.Contains(out, "Loaded image: "+n) || !strings.Contains(list, n+" "+id) {
			t.Errorf("%s %s is not in\n%s%s", n, id, out, list)
		}
	}
}

// TestLoadErrors: what is no archive is one line, and leaves nothing.
func TestLoadErrors(t *testing.T) {
	h := harness.NewHome(t, harness.Unprivileged(t))
	h.Files(map[string]string{"junk": "hello", "Dockerfile": "FROM scratch\n"})
	try(h, "load", "-i", h.Path("junk")).Fails(t, 1, "loading images: reading archive")
	try(h, "load", "-i", h.Path("missing")).Fails(t, 2, "--input")
	harness.Run(t, "tar", "-C", h.Work, "-cf", h.Path("x.tar"), "junk")
	h.Own()
	try(h, "load", "-i", h.Path("x.tar")).Fails(t, 1, "neither manifest.json nor index.json")
	try(h, "save", "-o", h.Path("y.tar"), "nothing").Fails(t, 1, "cairn: no such image: nothing", "cairn images")
	if _, err := os.Stat(h.Path("y.tar")); err == nil {
		t.Error("a failed save leaves a file")
	}
	if out := cairn(t, h, "images", "-q"); out != "" {
		t.Errorf("images: %q", out)
	}
}
