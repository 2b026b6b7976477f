package test

import (
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

const small = "\nRUN echo own > /own\nLABEL a=b\n"

// TestPushWithCredentials logs in by Docker's config.json, in the home and where DOCKER_CONFIG says.
func TestPushWithCredentials(t *testing.T) {
	open := harness.StartRegistry(t, harness.RegistryOptions{})
	base := open.Busybox(t)
	for _, o := range []harness.RegistryOptions{{Auth: true}, {TLS: true}, {Auth: true, TLS: true}} {
		registry := harness.StartRegistry(t, o)
		harness.EachUser(t, func(t *testing.T, u harness.User) {
			h := harness.NewHome(t, u)
			h.Files(map[string]string{"ctx/Dockerfile": "FROM " + base + small, "conf/config.json": registry.DockerConfig()})
			args := []string{"-t", registry.Name("app-" + u.Name + ":v1"), "--push", "ctx"}
			if o.TLS {
				r := build(h, args...).Fails(t, 1, "certificate", "--registry-ca")
				if n := len(lastLines(r.Stderr)); n > 2 {
					t.Errorf("%d lines of errors: %v", n, r)
				}
				args = append(args, "--registry-ca", registry.CA)
			}
			if o.Auth {
				build(h, args...).Fails(t, 1, "401", "login")
				h.Env = append(h.Env, "DOCKER_CONFIG="+h.Path("conf"))
			}
			build(h, args...).OK(t)
			layout := registry.Unpack(t, "docker://"+registry.Name("app-"+u.Name+":v1"))
			if layout.Read("own") != "own\n" {
				t.Error("the image does not hold what was built")
			}
			// And the way back: pull, and use as a base.
			pull := []string{"pull", "--root", h.Path("other"), registry.Name("app-" + u.Name + ":v1")}
			if o.TLS {
				pull = append(pull, "--registry-ca", registry.CA)
			}
			h.Cairn(pull...).OK(t)
		})
	}
}

// TestInsecureRegistry: TLS that nobody can verify is only spoken where it is asked for.
func TestInsecureRegistry(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	registry := harness.StartRegistry(t, harness.RegistryOptions{TLS: true})
	h := harness.NewHome(t, harness.Unprivileged(t))
	dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + small})
	build(h, "-t", registry.Name("app"), "--push", "--insecure-registry", registry.Addr, dir).OK(t)
	registry.Unpack(t, "docker://"+registry.Name("app:latest"))
}

// TestSeveralTags pushes one image under several names at once, and sends every blob once.
func TestSeveralTags(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + small})
	counter := registry.Count(t)
	build(h, "-t", counter.Addr+"/one:v1", "-t", counter.Addr+"/one:v2", "-t", counter.Addr+"/two:v1", "--push", dir).OK(t)
	var digests []string
	for _, name := range []string{"one:v1", "one:v2", "two:v1"} {
		out := harness.Run(t, "skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+registry.Name(name))
		digests = append(digests, strings.TrimSpace(out))
	}
	if digests[0] != digests[1] || digests[0] != digests[2] {
		t.Errorf("the tags are %v", digests)
	}
	sent := map[string]int{}
	for _, r := range counter.Take() {
		if r.Method == "PUT" && strings.Contains(r.Path, "/blobs/uploads/") {
			sent[r.Path[:strings.Index(r.Path, "/blobs/")]]++
		}
	}
	// The base is in a registry of another name, from which nothing can be mounted.
	if sent["/v2/one"] != 3 || sent["/v2/two"] > 0 {
		t.Errorf("uploads by repository: %v; want both layers and the config once, and the second repository to mount them", sent)
	}
}

// TestBaseIsMounted: the base's layers are neither uploaded nor, for an image that only adds files, downloaded more than once.
func TestBaseIsMounted(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	registry.Busybox(t)
	counter := registry.Count(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		dir := h.Files(map[string]string{"Dockerfile": "FROM " + counter.Addr + "/base/busybox" + small})
		name := "mounted-" + u.Name
		counter.Take()
		build(h, "-t", counter.Addr+"/"+name, "--push", dir).OK(t)
		var mounted, uploaded int
		for _, r := range counter.Take() {
			switch {
			case r.Method == "POST" && strings.Contains(r.Query, "from=base%2Fbusybox") && r.Status == 201:
				mounted++
			case r.Method != "GET" && strings.Contains(r.Path, "/blobs/uploads/") && r.Sent > 100_000:
				uploaded++
			}
		}
		if mounted != 1 || uploaded != 0 {
			t.Errorf("%d layers of the base were mounted and %d large blobs uploaded", mounted, uploaded)
		}
		// A second push of the same image moves nothing.
		build(h, "-t", counter.Addr+"/"+name, "--push", dir).OK(t)
		for _, r := range counter.Take() {
			if r.Sent > 0 && strings.Contains(r.Path, "/blobs/") || r.Received > 100_000 {
				t.Errorf("the second push moves bytes: %v", r)
			}
		}
	})
}

// TestEstargzIsAnImage: other tools, and cairn, take an image of eStargz layers for what it is, and its table of contents for no file.
func TestEstargzIsAnImage(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		name := registry.Name("seekable-" + u.Name)
		dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + small, "next/Dockerfile": "FROM " + name + "\nRUN cat /own > /read && ! ls /stargz.index.json\n"})
		build(h, "-t", name, "-o", "type=registry,compression=estargz,force-compression=true", dir).OK(t)
		if l := registry.Unpack(t, "docker://"+name+":latest"); l.Read("own") != "own\n" {
			t.Error("the image does not hold what was built")
		}
		next := registry.Name("on-seekable-" + u.Name)
		build(h, "--root", h.Path("other"), "-t", next, "--push", dir+"/next").OK(t)
		if l := registry.Unpack(t, "docker://"+next+":latest"); l.Read("read") != "own\n" {
			t.Error("what was built on the image is wrong")
		}
	})
}

// TestPushAndPullCommands takes an image of the local store to a registry and back.
func TestPushAndPullCommands(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + small})
		name := registry.Name("local-" + u.Name + ":v1")
		r := build(h, "-q", "-t", name, dir).OK(t)
		id := strings.TrimSpace(r.Stdout)
		if !strings.HasPrefix(id, "sha256:") || r.Stderr != "" {
			t.Errorf("--quiet says %q and %q", r.Stdout, r.Stderr)
		}
		list := h.Cairn("images", "--root", h.Root).OK(t).Stdout
		if !strings.Contains(list, registry.Name("local-"+u.Name)) || !strings.Contains(list, id[7:19]) {
			t.Errorf("cairn images lists\n%s", list)
		}
		h.Cairn("push", "--root", h.Root, name).OK(t)
		other := h.Path("other")
		h.Cairn("pull", "--root", other, name).OK(t)
		again := h.Cairn("images", "--root", other, "-q").OK(t).Stdout
		if strings.TrimSpace(again) != id[7:19] {
			t.Errorf("the pulled image is %q, the pushed one was %s", again, id)
		}
		h.Cairn("push", "--root", h.Root, registry.Name("never-built")).Fails(t, 1, "never-built")
	})
}
