// Package test holds the end-to-end tests: the program as it is shipped, run as root and as an unprivileged user, against real
// registries and bases, and judged by other people's tools.
package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// build is the start of most command lines here.
func build(h *harness.Home, args ...string) harness.Result {
	return h.Cairn(append([]string{"build", "--root", h.Root, "--progress=plain"}, args...)...)
}

// TestHello follows the example of the README from the Dockerfile to the running program.
func TestHello(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Debian(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		example := filepath.Join(harness.Module(t), "examples", "hello")
		dir := h.Files(readFiles(t, example))
		image := registry.Name("hello-" + u.Name + ":v1")
		args := []string{"--build-arg", "BASE=" + base, "--build-arg", "GREETING=good day", "-t", image, "--push", "--metadata-file", "meta.json",
			"--iidfile", "iid", dir}
		build(h, args...).OK(t)

		layout := registry.Unpack(t, "docker://"+image)
		if !layout.Has("hello") || layout.Has("bin") {
			t.Error("the image is not the program alone")
		}
		config := registry.Config(t, "docker://"+image)
		if config.Config.User != "65534" || config.Config.Labels["org.opencontainers.image.title"] != "hello" {
			t.Errorf("config %+v", config.Config)
		}
		checkResultFiles(t, h, image)

		other := filepath.Join(h.Dir, "other")
		h.Cairn("pull", "--root", other, image).OK(t)
		out := h.Cairn("run", "--root", other, "--rm", image, "reader").OK(t).Stdout
		if !strings.HasPrefix(out, "good day, reader: I am process 1 of user 65534") {
			t.Errorf("the program says %q", out)
		}
		// The second build is a no-op, and says so.
		again := build(h, args...).OK(t)
		if n := cached(again.Stderr); n < 5 {
			t.Errorf("%d steps were cached in:\n%s", n, again.Stderr)
		}
	})
}

// readFiles reads the files of a folder.
func readFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(data)
	}
	return files
}

// checkResultFiles compares the files of --metadata-file and --iidfile with what the registry has.
func checkResultFiles(t *testing.T, h *harness.Home, image string) {
	t.Helper()
	var meta map[string]any
	data, err := os.ReadFile(h.Path("meta.json"))
	if err == nil {
		err = json.Unmarshal(data, &meta)
	}
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.TrimSpace(harness.Run(t, "skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+image))
	if meta["containerimage.digest"] != digest || meta["image.name"] != image {
		t.Errorf("metadata %v, but %s is %s", meta, image, digest)
	}
	var manifest struct{ Config struct{ Digest string } }
	raw := harness.Run(t, "skopeo", "inspect", "--tls-verify=false", "--raw", "docker://"+image)
	if err := json.Unmarshal([]byte(raw), &manifest); err != nil {
		t.Fatal(err)
	}
	iid, err := os.ReadFile(h.Path("iid"))
	if err != nil || string(iid) != manifest.Config.Digest || meta["containerimage.config.digest"] != manifest.Config.Digest {
		t.Errorf("image ID %s, %v; the config is %s", iid, err, manifest.Config.Digest)
	}
}

// TestArchives writes the formats that other tools read, and has them read.
func TestArchives(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		dir := h.Files(map[string]string{
			"Dockerfile": "FROM " + base + "\nRUN echo one >/one && ln /one /two && chown 1000:50 /one && rm /bin/vi\nCOPY data /data\nCMD [\"cat\",\"/one\"]\n",
			"data/file":  "content\n",
		})
		build(h, "-t", "localhost/arch:v1", "-o", "type=oci,dest=oci.tar", "-o", "type=docker,dest=docker.tar", "-o", "type=tar,dest=root.tar",
			"-o", "type=local,dest=rootfs", "-o", "layout", dir).OK(t)

		layout := registry.Unpack(t, "oci-archive:"+h.Path("oci.tar"))
		if got := layout.Read("one") + layout.Read("two") + layout.Read("data/file"); got != "one\none\ncontent\n" {
			t.Errorf("the layout's files hold %q", got)
		}
		if layout.Has("bin/vi") {
			t.Error("a removed file is back")
		}
		registry.Unpack(t, "docker-archive:"+h.Path("docker.tar"))
		podman(t, h)

		listing := h.Run("tar", "-tvf", "root.tar", "--numeric-owner")
		if !strings.Contains(listing, "1000/50") || !strings.Contains(listing, "data/file") {
			t.Errorf("the tar of the root filesystem holds\n%s", listing)
		}
		for _, name := range []string{"rootfs/data/file", "layout/data/file"} {
			if data, err := os.ReadFile(h.Path(name)); err != nil || string(data) != "content\n" {
				t.Errorf("%s: %q, %v", name, data, err)
			}
		}
		// A tar to standard output, alone on it.
		piped := h.Command("sh", "-c", `"$0" "$@" | tar -tf - >listing`, harness.Binary(t), "build", "--root", h.Root, "-o", "-", dir)
		if out, err := piped.CombinedOutput(); err != nil {
			t.Errorf("piping to tar: %v\n%s", err, out)
		}
		if data, err := os.ReadFile(h.Path("listing")); err != nil || !strings.Contains(string(data), "data/file") {
			t.Errorf("the tar on standard output holds %q, %v", data, err)
		}
	})
}

// podman loads the docker archive and runs it.
func podman(t *testing.T, h *harness.Home) {
	t.Helper()
	storage := []string{"podman", "--root", filepath.Join(h.Dir, "podman"), "--runroot", filepath.Join(h.Dir, "podman-run"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"}
	h.Env = append(h.Env, "XDG_RUNTIME_DIR="+h.Dir)
	out := h.Run(append(storage, "load", "-i", "docker.tar")...)
	if !strings.Contains(out, "localhost/arch:v1") {
		t.Errorf("podman load says %q", out)
	}
	config := h.Run(append(storage, "image", "inspect", "--format", "{{.Config.Cmd}}", "localhost/arch:v1")...)
	if strings.TrimSpace(config) != "[cat /one]" {
		t.Errorf("podman reads the command %s", config)
	}
}

// TestAptGet installs packages from this machine's archive in a RUN, without privileges, and compiles with them.
func TestAptGet(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Debian(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	dir := h.Files(map[string]string{
		"Dockerfile": "FROM " + base + " AS build\n" +
			"RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev\n" +
			"COPY main.c .\nRUN gcc -static -o /main main.c\n" +
			"FROM scratch\nCOPY --from=build /main /main\nCMD [\"/main\"]\n",
		"main.c": "#include <stdio.h>\nint main(void) { puts(\"compiled without privileges\"); return 0; }\n",
	})
	image := registry.Name("apt:v1")
	build(h, "-t", image, "--push", "-o", "type=oci,dest=oci.tar", "-o", "type=docker,dest=docker.tar", dir).OK(t)
	registry.Unpack(t, "docker://"+image)
	registry.Unpack(t, "oci-archive:"+h.Path("oci.tar"))
	registry.Unpack(t, "docker-archive:"+h.Path("docker.tar"))
	if out := h.Cairn("run", "--root", h.Root, image).OK(t).Stdout; out != "compiled without privileges\n" {
		t.Errorf("the program says %q", out)
	}
}
