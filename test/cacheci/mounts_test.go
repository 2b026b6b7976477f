package cacheci

import (
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// TestCacheMounts carries the directories of RUN --mount=type=cache from one empty machine to the next.
func TestCacheMounts(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		ms := newMachines(t, u)
		ms.Files(map[string]string{"ctx/Dockerfile": "FROM " + base + `
ARG N
RUN --mount=type=cache,target=/c,uid=1000,gid=50,mode=1770 --mount=type=cache,id=second,target=/d \
    echo $N >> /c/log && mkdir -p /c/sub && touch -d '2001-02-03 04:05:06' /c/sub/old && ln -sf old /c/sub/link && \
    chown 1000 /c/log && ls -ld /c /c/sub/old && echo "log:" $(cat /c/log) && echo "second:" $(cat /d/x; echo $N > /d/x)
`})
		remote := registry.Name(u.Name + "/mounts")
		build := func(n string, args ...string) harness.Result {
			return ms.empty().build(append([]string{"ctx", "--build-arg", "N=" + n}, args...)...).OK(t)
		}
		has := func(r harness.Result, texts ...string) {
			t.Helper()
			for _, text := range texts {
				if !strings.Contains(r.Stderr, text) {
					t.Errorf("no %q in\n%s", text, r.Stderr)
				}
			}
		}
		r := build("1", "--cache-mounts-from", remote, "--cache-mounts-to", remote)
		has(r, "CacheMounts: importing", "log: 1", "2 cache mounts, manifest")
		r = build("2", "--cache-mounts-from", remote, "--cache-mounts-to", "type=local,dest=kept")
		has(r, "log: 1 2", "second: 1", "drwxrwx--T", "ann      staff", "2001 /c/sub/old")
		r = build("3", "--cache-mounts-from", "type=local,src=kept,id=second")
		has(r, "log: 3", "second: 2")

		// A build whose steps are all cached has no directories, and leaves what is kept as it is.
		cache := registry.Name(u.Name + "/steps")
		build("4", "--cache-to", "type=registry,mode=max,ref="+cache, "--cache-mounts-from", remote, "--cache-mounts-to", remote)
		r = build("4", "--cache-from", cache, "--cache-mounts-from", remote, "--cache-mounts-to", remote)
		allCached(t, r, 1)
		has(r, "2 cache mounts, manifest")
		r = build("4", "--cache-from", cache, "--cache-mounts-to", remote)
		has(r, "there are no cache mounts to export")
		r = build("5", "--cache-mounts-from", remote)
		has(r, "log: 1 4 5", "second: 4")

		// The same content is the same artifact, whoever exports it.
		m := ms.empty()
		m.build("ctx", "--build-arg", "N=5", "--cache-mounts-to", "type=local,dest=one").OK(t)
		m.build("ctx", "--build-arg", "N=5", "--cache-mounts-to", "type=local,dest=two").OK(t)
		if one, two := harness.Run(t, "cat", ms.Path("one/index.json")), harness.Run(t, "cat", ms.Path("two/index.json")); one != two {
			t.Errorf("%s\n%s", one, two)
		}
		// An id that no step has is told; damaged content is not let in.
		has(m.build("ctx", "--build-arg", "N=5", "--cache-mounts-to", "type=local,dest=two,id=third"), `no step of this build has the cache mount "third"`)
		l := layout{t, ms.Path("kept")}
		var index, manifest object
		l.read(l.dir+"/index.json", &index)
		l.read(l.path(index["manifests"].([]any)[0].(object)["digest"].(string)), &manifest)
		for _, b := range manifest["layers"].([]any) {
			flip(t, l.path(b.(object)["digest"].(string)))
		}
		r = build("6", "--cache-mounts-from", "type=local,src=kept")
		has(r, "CacheMounts: importing cache mount", "log: 6")
	})
}
