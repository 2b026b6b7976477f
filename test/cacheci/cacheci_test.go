// Package cacheci tests the cache as CI uses it: every build on an empty machine, in a fresh clone, with nothing but what a registry or a
// directory kept of the build before.
package cacheci

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
)

// machines makes empty machines that one user works on: each has a store of its own.
type machines struct {
	*harness.Home
	t *testing.T
	n int
}

// machine is one of them.
type machine struct {
	*machines
	root string
}

func newMachines(t *testing.T, u harness.User) *machines {
	return &machines{Home: harness.NewHome(t, u), t: t}
}

func (ms *machines) empty() *machine {
	ms.n++
	return &machine{ms, filepath.Join(ms.Dir, fmt.Sprintf("store%d", ms.n))}
}

func (m *machine) build(args ...string) harness.Result {
	return m.Cairn(append([]string{"build", "--root", m.root, "--progress=plain", "--metadata-file", m.Path("meta.json")}, args...)...)
}

// digest is that of the image the last build made.
func (ms *machines) digest() string {
	ms.t.Helper()
	data, err := os.ReadFile(ms.Path("meta.json"))
	if err != nil {
		ms.t.Fatal(err)
	}
	var meta struct {
		Digest string `json:"containerimage.digest"`
	}
	if err := json.Unmarshal(data, &meta); err != nil || meta.Digest == "" {
		ms.t.Fatalf("no digest in %s: %v", data, err)
	}
	return meta.Digest
}

// clone is a fresh copy of a context in another directory, with the times of today and later.
func (ms *machines) clone(dir string) string {
	ms.t.Helper()
	ms.n++
	to := filepath.Join(fmt.Sprintf("clone%d", ms.n), "src")
	if err := os.MkdirAll(ms.Path(filepath.Dir(to)), 0o755); err != nil {
		ms.t.Fatal(err)
	}
	harness.Run(ms.t, "cp", "-r", ms.Path(dir), ms.Path(to))
	later := time.Now().Add(48 * time.Hour)
	err := filepath.WalkDir(ms.Path(to), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, later, later)
	})
	if err != nil {
		ms.t.Fatal(err)
	}
	ms.Own()
	return to
}

// steps counts the steps of a plain log that were carried out and those that were answered from the cache; bringing in a base is none.
func steps(log string) (done, cached []string) {
	names := map[string]string{}
	for _, line := range strings.Split(log, "\n") {
		id, rest, _ := strings.Cut(line, " ")
		if strings.HasPrefix(rest, "[") && !strings.HasPrefix(rest, "[internal]") && names[id] == "" {
			names[id] = rest
		}
		name := names[id]
		if name == "" || strings.Contains(name, "] FROM ") {
			continue
		}
		switch {
		case rest == "CACHED":
			cached = append(cached, name)
		case strings.HasPrefix(rest, "DONE"):
			done = append(done, name)
		}
	}
	return done, cached
}

// allCached ends the test unless every one of n steps was cached.
func allCached(t *testing.T, r harness.Result, n int) {
	t.Helper()
	done, cached := steps(r.OK(t).Stderr)
	if len(done) > 0 || len(cached) != n {
		t.Fatalf("%d of %d steps cached, carried out %q:\n%s", len(cached), n, done, r.Stderr)
	}
}

// traffic sums up what a registry was asked: bytes of manifests and of blobs by digest, and bytes uploaded.
type traffic struct {
	manifests, down, up int64
	blobs               map[string]int
	mounts              int
	log                 []string
}

func trafficOf(c *harness.Counter) traffic {
	t := traffic{blobs: map[string]int{}}
	for _, r := range c.Take() {
		t.log = append(t.log, r.String())
		t.up += r.Sent
		switch {
		case r.Method == "GET" && strings.Contains(r.Path, "/manifests/"):
			t.manifests += r.Received
		case r.Method == "GET" && strings.Contains(r.Path, "/blobs/sha256:"):
			t.down += r.Received
			t.blobs[r.Path[strings.LastIndex(r.Path, "/")+1:]]++
		case r.Method == "POST" && r.Status == 201:
			if q, err := url.ParseQuery(r.Query); err == nil && q.Has("mount") {
				t.mounts++
			}
		}
	}
	return t
}

// dockerfile has what CI builds have: stages, a slow step, users by name, files from another stage. Its eight steps include the one of WORKDIR.
func dockerfile(base string) string {
	return "FROM " + base + ` AS build
WORKDIR /src
RUN head -c 2000000 /dev/urandom > /toolchain
COPY go.mod ./
COPY . .
RUN cat main.go lib/*.go > /program
FROM ` + base + `
RUN head -c 1000000 /dev/urandom > /packages
COPY --from=build /program /bin/program
COPY --chown=ann lib /srv/lib
`
}

const stepsOfDockerfile = 8

func sources(base string) map[string]string {
	return map[string]string{
		"ctx/Dockerfile": dockerfile(base), "ctx/go.mod": "module x\n", "ctx/main.go": "package main\n",
		"ctx/lib/a.go": "package lib\n", "ctx/lib/b.go": "package lib // b\n", "ctx/.dockerignore": "Dockerfile\n",
	}
}

// layersOf are the digests of the layers of an image, the base's first.
func layersOf(t *testing.T, registry *harness.Registry, ref string) []string {
	t.Helper()
	args := append([]string{"skopeo", "inspect", "--raw"}, registry.Skopeo("")...)
	var m struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal([]byte(harness.Run(t, append(args, "docker://"+ref)...)), &m); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range m.Layers {
		out = append(out, l.Digest)
	}
	return out
}

func TestRegistryOnEmptyMachines(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	registry.Busybox(t)
	counter := registry.Count(t)
	base := counter.Addr + "/base/busybox:latest"
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		ms := newMachines(t, u)
		ms.Files(sources(base))
		name := func(s string) string { return counter.Addr + "/" + u.Name + "/" + s }
		cache, image := name("app/cache:main"), name("app:v1")

		first := ms.empty()
		r := first.build("ctx", "-t", image, "--push", "--cache-from", cache, "--cache-to", "type=registry,ref="+cache+",mode=max").OK(t)
		if !strings.Contains(r.Stderr, "CacheImport") {
			t.Errorf("a cache that is not there is no warning:\n%s", r.Stderr)
		}
		if done, cached := steps(r.Stderr); len(done) != stepsOfDockerfile || len(cached) != 0 {
			t.Fatalf("a first build: %q %q", done, cached)
		}
		want := ms.digest()
		layers := layersOf(t, registry, strings.Replace(image, counter.Addr, registry.Addr, 1))
		isLayer := map[string]bool{}
		for _, l := range layers {
			isLayer[l] = true
		}
		counter.Take()

		// An empty machine, a fresh clone with other times, pushed to another repository: no layer moves.
		second := ms.empty()
		r = second.build(ms.clone("ctx"), "-t", name("other:v2"), "--push", "--cache-from", cache)
		allCached(t, r, stepsOfDockerfile)
		if got := ms.digest(); got != want {
			t.Errorf("the image is %s, and was %s", got, want)
		}
		tr := trafficOf(counter)
		for d := range tr.blobs {
			if isLayer[d] {
				t.Errorf("layer %s was fetched", d)
			}
		}
		if tr.up > 8<<10 || tr.down > 64<<10 || tr.mounts != len(layers) {
			t.Errorf("%d bytes uploaded, %d downloaded, %d of %d layers mounted:\n%s", tr.up, tr.down, tr.mounts, len(layers), strings.Join(tr.log, "\n"))
		}
		t.Logf("fully cached and pushed: %d bytes of manifests and %d bytes in %d blobs fetched, %d bytes pushed, %d layers mounted; %d requests",
			tr.manifests, tr.down, len(tr.blobs), tr.up, tr.mounts, len(tr.log))

		// The same into a tarball: each layer is fetched once.
		third := ms.empty()
		r = third.build(ms.clone("ctx"), "-o", "type=oci,dest=out.tar", "--cache-from", cache)
		allCached(t, r, stepsOfDockerfile)
		tr = trafficOf(counter)
		for _, l := range layers {
			if tr.blobs[l] != 1 {
				t.Errorf("layer %s was fetched %d times", l, tr.blobs[l])
			}
		}
		t.Logf("fully cached, as a tarball: %d bytes in %d blobs fetched", tr.down, len(tr.blobs))
		harness.Run(t, "skopeo", "copy", "-q", "oci-archive:"+ms.Path("out.tar"), "dir:"+ms.Path("judged"))

		// One file changed: what does not depend on it is cached, and the large layers stay where they are.
		changed := ms.clone("ctx")
		ms.Files(map[string]string{changed + "/lib/b.go": "package lib // changed\n"})
		fourth := ms.empty()
		r = fourth.build(changed, "-t", name("other:v3"), "--push", "--cache-from", cache, "--explain").OK(t)
		done, cached := steps(r.Stderr)
		if len(done) != 4 || len(cached) != 4 {
			t.Errorf("carried out %q, cached %q", done, cached)
		}
		for _, text := range []string{`COPY . .: file "lib/b.go" changed`, `COPY --from=build /program /bin/program: file "program" changed`,
			`COPY --chown=ann lib /srv/lib: what it stands on changed`, "RUN head -c 2000000 /dev/urandom > /toolchain, from " + name("app/cache")} {
			if !strings.Contains(r.Stderr, text) {
				t.Errorf("no explanation %q in\n%s", text, r.Stderr)
			}
		}
		tr = trafficOf(counter)
		if tr.blobs[layers[1]] > 0 {
			t.Errorf("the layer of RUN was fetched for a COPY onto it:\n%s", strings.Join(tr.log, "\n"))
		}
	})
}

// TestModeMin exports only what the image consists of.
func TestModeMin(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	ms := newMachines(t, harness.Unprivileged(t))
	ms.Files(sources(base))
	cache := registry.Name("cache:min")
	ms.empty().build("ctx", "--cache-to", cache).OK(t)
	r := ms.empty().build(ms.clone("ctx"), "--cache-from", cache).OK(t)
	done, cached := steps(r.Stderr)
	if len(done) == 0 || len(cached) == 0 || len(cached) > 3 {
		t.Errorf("carried out %q, cached %q", done, cached)
	}
	for _, name := range cached {
		if strings.HasPrefix(name, "[build ") {
			t.Errorf("%s is not part of the image", name)
		}
	}
	ms.empty().build(ms.clone("ctx"), "--cache-from", cache, "--expect-cached=build").Fails(t, 1, "stage build was expected to be cached", "no such step")
	ms.empty().build(ms.clone("ctx"), "--cache-from", cache, "--expect-cached=bild").Fails(t, 1, "stage bild", "not part of this build")
}

func TestInline(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		ms := newMachines(t, u)
		ms.Files(map[string]string{
			"ctx/Dockerfile": "FROM " + base + "\nRUN head -c 100000 /dev/urandom > /a\nCOPY f /f\nRUN cat /f > /g\n", "ctx/f": "f\n",
		})
		image := registry.Name("inline-" + u.Name + ":v1")
		ms.empty().build("ctx", "-t", image, "--push", "--cache-to", "type=inline").OK(t)
		want := ms.digest()
		allCached(t, ms.empty().build(ms.clone("ctx"), "-t", image, "--push", "--cache-from", image, "--cache-to", "type=inline", "--expect-cached"), 3)
		if got := ms.digest(); got != want {
			t.Errorf("the image is %s, and was %s", got, want)
		}
		// Others read the image, and what is built on it does not inherit the field.
		args := append([]string{"skopeo", "inspect", "--config"}, registry.Skopeo("")...)
		if config := harness.Run(t, append(args, "--raw", "docker://"+image)...); !strings.Contains(config, "cairn.cache.v1") {
			t.Errorf("no inline cache in %s", config)
		}
		ms.Files(map[string]string{"child/Dockerfile": "FROM " + image + "\nLABEL a=b\n"})
		ms.empty().build("child", "-t", image+"-child", "--push").OK(t)
		if config := harness.Run(t, append(args, "--raw", "docker://"+image+"-child")...); strings.Contains(config, "cairn.cache") {
			t.Errorf("an inherited inline cache: %s", config)
		}
		// Rewritten times make other layers: they have no records, and nothing is claimed of them.
		ms.empty().build("ctx", "--build-arg", "SOURCE_DATE_EPOCH=1000", "-o", "type=registry,name="+image+"-old,rewrite-timestamp=true",
			"--cache-to", "type=inline").OK(t)
		ms.empty().build("ctx", "-o", "type=local,dest=out", "--cache-to", "type=inline").Fails(t, 1, "no output is an image")
	})
}

func TestLocal(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		ms := newMachines(t, u)
		ms.Files(sources(base))
		ms.empty().build("ctx", "--cache-to", "type=local,dest=kept,mode=max").OK(t)
		want := ms.digest()
		allCached(t, ms.empty().build(ms.clone("ctx"), "--cache-from", "type=local,src=kept", "-o", "type=oci,dest=out.tar"), stepsOfDockerfile)
		if got := ms.digest(); got != want {
			t.Errorf("the image is %s, and was %s", got, want)
		}
		harness.Run(t, "skopeo", "copy", "-q", "oci-archive:"+ms.Path("out.tar"), "dir:"+ms.Path("judged"))
		// Exported to again and again the directory does not grow.
		size := func() (n int64) {
			blobs, err := os.ReadDir(ms.Path("kept/blobs/sha256"))
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range blobs {
				if fi, err := b.Info(); err == nil {
					n += fi.Size()
				}
			}
			return n
		}
		before := size()
		for i := range 3 {
			ms.Files(map[string]string{"ctx/lib/b.go": fmt.Sprintln("package lib //", i)})
			ms.empty().build("ctx", "--no-cache", "--cache-to", "type=local,dest=kept,mode=max").OK(t)
		}
		if after := size(); after > before+before/10 {
			t.Errorf("%d bytes became %d", before, after)
		}
		// Another tag beside it.
		ms.empty().build("ctx", "--cache-to", "type=local,dest=kept,tag=other").OK(t)
		allCached(t, ms.empty().build("ctx", "--cache-from", "type=local,src=kept"), stepsOfDockerfile)
	})
}

// TestFallback asks imports in order; what is not there, or is no cache, is a warning.
func TestFallback(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	ms := newMachines(t, harness.Unprivileged(t))
	ms.Files(map[string]string{"ctx/Dockerfile": "FROM " + base + "\nRUN echo a > /a\nRUN echo b > /b\n", "ctx/two/Dockerfile": "FROM " + base + "\nRUN echo a > /a\n"})
	ms.empty().build("ctx/two", "--cache-to", registry.Name("branch")).OK(t)
	ms.empty().build("ctx", "--cache-from", registry.Name("branch"), "--cache-to", registry.Name("main")).OK(t)
	r := ms.empty().build("ctx", "--explain", "--cache-from", registry.Name("nowhere"), "--cache-from", base, "--cache-from", "127.0.0.1:1/x",
		"--cache-from", "type=local,src="+ms.Path("nothing"), "--cache-from", registry.Name("branch"), "--cache-from", registry.Name("main"))
	allCached(t, r, 2)
	if n := strings.Count(r.Stderr, "CacheImport"); n != 4 {
		t.Errorf("%d warnings instead of 4:\n%s", n, r.Stderr)
	}
	for _, text := range []string{"/a, from " + registry.Name("branch"), "/b, from " + registry.Name("main")} {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("no %q in\n%s", text, r.Stderr)
		}
	}
	// Exporting to nowhere fails the build unless that is to be ignored.
	ms.empty().build("ctx", "--cache-to", "type=registry,ref=127.0.0.1:1/x").Fails(t, 1, "exporting cache to 127.0.0.1:1/x:latest")
	ms.empty().build("ctx", "--cache-to", "type=registry,ref=127.0.0.1:1/x,ignore-error=true").OK(t)
	ms.empty().build("ctx", "--cache-to", "type=registry,ref=x,mod=max").Fails(t, 2, "unknown key mod", "did you mean mode?")
	ms.empty().build("ctx", "--cache-to", "type=s3,bucket=x").Fails(t, 2, `unknown type "s3"`)
	ms.empty().build("ctx", "--expect-cached", "--no-cache").Fails(t, 2, "contradicts")
}
