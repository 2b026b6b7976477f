package cacheci

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// layout is an exported cache of type=local, to be damaged.
type layout struct {
	t   *testing.T
	dir string
}

func (l layout) path(digest string) string {
	return l.dir + "/blobs/sha256/" + strings.TrimPrefix(digest, "sha256:")
}

func (l layout) read(name string, v any) {
	l.t.Helper()
	data, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// put writes a blob and returns its digest and size.
func (l layout) put(v any) (string, int) {
	l.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.putBytes(data), len(data)
}

func (l layout) putBytes(data []byte) string {
	l.t.Helper()
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if err := os.WriteFile(l.path(digest), data, 0o644); err != nil {
		l.t.Fatal(err)
	}
	return digest
}

// object is any JSON object.
type object = map[string]any

// records reads the records; change may change them, and they are put back with digests that are right all the way up.
func (l layout) records(change func(doc object)) object {
	l.t.Helper()
	var index, manifest, doc object
	l.read(l.dir+"/index.json", &index)
	entry := index["manifests"].([]any)[0].(object)
	l.read(l.path(entry["digest"].(string)), &manifest)
	config := manifest["config"].(object)
	l.read(l.path(config["digest"].(string)), &doc)
	if change == nil {
		return doc
	}
	change(doc)
	config["digest"], config["size"] = l.put(doc)
	entry["digest"], entry["size"] = l.put(manifest)
	data, err := json.Marshal(index)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(l.dir+"/index.json", data, 0o644); err != nil {
		l.t.Fatal(err)
	}
	return doc
}

// blobs are the layers of the records with their blobs.
func blobs(doc object) (out []object) {
	for _, l := range doc["layers"].([]any) {
		if l := l.(object); l["blob"] != nil {
			out = append(out, l)
		}
	}
	return out
}

func flip(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPoisonedCache damages an exported cache in every way that whoever can write to it has. What is damaged is refused and made again: the image
// is the one of a build without a cache, and nothing of the damage stays in the store.
func TestPoisonedCache(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	ms := newMachines(t, harness.Unprivileged(t))
	// Every byte follows from the sources, so that an image that was rebuilt can be compared.
	const date = "SOURCE_DATE_EPOCH=1700000000"
	ms.Files(map[string]string{
		"ctx/Dockerfile": "FROM " + base + "\nRUN seq 1 200000 > /numbers && mkdir /dir && ln -s /dir /link\nCOPY f /link/f\nRUN cat /dir/f > /g\n", "ctx/f": "f\n",
	})
	out := func(name string) string { return "type=oci,rewrite-timestamp=true,dest=" + name }
	ms.empty().build("ctx", "--build-arg", date, "-o", out("want.tar")).OK(t)
	want := ms.digest()

	for name, damage := range map[string]func(l layout){
		"a flipped bit": func(l layout) {
			for _, b := range blobs(l.records(nil)) {
				flip(l.t, l.path(b["blob"].(object)["digest"].(string)))
			}
		},
		"a missing blob": func(l layout) {
			for _, b := range blobs(l.records(nil)) {
				if err := os.Remove(l.path(b["blob"].(object)["digest"].(string))); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a blob cut short": func(l layout) {
			for _, b := range blobs(l.records(nil)) {
				if err := os.Truncate(l.path(b["blob"].(object)["digest"].(string)), 30); err != nil {
					t.Fatal(err)
				}
			}
		},
		"another layer's blob": func(l layout) {
			l.records(func(doc object) {
				all := blobs(doc)
				all[0]["blob"], all[1]["blob"] = all[1]["blob"], all[0]["blob"]
			})
		},
		"a wrong DiffID": func(l layout) {
			l.records(func(doc object) {
				for _, b := range blobs(doc) {
					b["diffID"] = "sha256:" + strings.Repeat("ab", 32)
				}
			})
		},
		"a wrong size": func(l layout) {
			l.records(func(doc object) { blobs(doc)[0]["blob"].(object)["size"] = 1 })
		},
		"what is no layer": func(l layout) {
			l.records(func(doc object) {
				text := []byte("this is no tar archive")
				for _, b := range blobs(doc) {
					d := b["blob"].(object)
					d["digest"], d["size"] = l.putBytes(text), len(text)
				}
			})
		},
		"records that are no JSON":   func(l layout) { l.records(func(doc object) { doc["records"] = "x" }) },
		"a record of no layer":       func(l layout) { l.records(func(doc object) { doc["records"].([]any)[0].(object)["layer"] = 99 }) },
		"a path for a digest":        func(l layout) { l.records(func(doc object) { blobs(doc)[0]["diffID"] = "sha256:../../../etc/passwd" }) },
		"records that were flipped":  func(l layout) { flip(l.t, l.path(configDigest(l))) },
		"a version from the future":  func(l layout) { l.records(func(doc object) { doc["version"] = 2 }) },
		"an index that is no index":  func(l layout) { l.records(func(doc object) { blobs(doc)[0]["index"].(object)["data"] = "AAAA" }) },
		"no layout but a plain file": func(l layout) { _ = os.RemoveAll(l.dir); _ = os.WriteFile(l.dir, []byte("x"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := ms.Path("kept-" + strings.ReplaceAll(name, " ", "-"))
			ms.empty().build("ctx", "--build-arg", date, "--cache-to", "type=local,mode=max,dest="+dir).OK(t)
			damage(layout{t, dir})
			ms.Own()
			m := ms.empty()
			r := m.build("ctx", "--build-arg", date, "-o", out("got.tar"), "--cache-from", "type=local,src="+dir).OK(t)
			if got := ms.digest(); got != want {
				t.Errorf("the image is %s instead of %s:\n%s", got, want, r.Stderr)
			}
			harness.Run(t, "skopeo", "copy", "-q", "oci-archive:"+ms.Path("got.tar"), "dir:"+ms.Path("judged"))
			if name != "an index that is no index" && !strings.Contains(r.Stderr, "CacheRefused") && !strings.Contains(r.Stderr, "CacheImport") {
				t.Errorf("nobody was told:\n%s", r.Stderr)
			}
			// A later build in the same store, that trusts nobody, has the right image too.
			m.build("ctx", "--build-arg", date, "-o", out("again.tar")).OK(t)
			if got := ms.digest(); got != want {
				t.Errorf("the next image is %s instead of %s", got, want)
			}
		})
	}
}

// TestLyingIndex has an import that says of a layer that it contains something else. A COPY onto it believes that as long as nobody has read the
// layer; the output is right all the same, because it is read before anything is written.
func TestLyingIndex(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	ms := newMachines(t, harness.Unprivileged(t))
	ms.Files(map[string]string{
		"ctx/Dockerfile": "FROM " + base + "\nRUN mkdir /dir && ln -s /dir /link\nRUN true\nCOPY f /link/f\n", "ctx/f": "1\n",
	})
	args := []string{"ctx", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-o", "type=oci,rewrite-timestamp=true,dest=out.tar"}
	ms.empty().build(append(args, "--cache-to", "type=local,mode=max,dest=kept")...).OK(t)
	ms.Files(map[string]string{"ctx/f": "2\n"})
	ms.empty().build(args...).OK(t)
	want := ms.digest()
	l := layout{t, ms.Path("kept")}
	l.records(func(doc object) {
		all := blobs(doc)
		for i := range all { // whichever of the three is the first RUN's
			all[i]["index"] = all[(i+1)%len(all)]["index"]
		}
	})
	ms.Own()
	r := ms.empty().build(append(args, "--cache-from", "type=local,src=kept")...).OK(t)
	if got := ms.digest(); got != want || !strings.Contains(r.Stderr, "CacheRefused") {
		t.Errorf("the image is %s instead of %s:\n%s", got, want, r.Stderr)
	}
}

func configDigest(l layout) string {
	var index, manifest object
	l.read(l.dir+"/index.json", &index)
	l.read(l.path(index["manifests"].([]any)[0].(object)["digest"].(string)), &manifest)
	return manifest["config"].(object)["digest"].(string)
}

// TestPoisonedRegistry has a registry, or somebody on the way to it, that flips a bit of every layer.
func TestPoisonedRegistry(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	target := &url.URL{Scheme: "http", Host: registry.Addr}
	var flipped atomic.Int64
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target); p.Out.Host = p.In.Host },
		ModifyResponse: func(resp *http.Response) error {
			if resp.Request.Method != http.MethodGet || !strings.Contains(resp.Request.URL.Path, "/blobs/") {
				return nil
			}
			data, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
				data[len(data)/2] ^= 1
				flipped.Add(1)
			}
			resp.Body = io.NopCloser(bytes.NewReader(data))
			return nil
		},
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	bad := strings.TrimPrefix(server.URL, "http://")
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		ms := newMachines(t, u)
		ms.Files(map[string]string{"ctx/Dockerfile": "FROM " + base + "\nRUN seq 1 100000 > /a\nRUN tail -n 1 /a > /b\n"})
		args := []string{"ctx", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-o", "type=oci,rewrite-timestamp=true,dest=out.tar"}
		ms.empty().build(append(args, "--cache-to", "type=registry,mode=max,ref="+registry.Name(u.Name+"/cache"))...).OK(t)
		want := ms.digest()
		r := ms.empty().build(append(args, "--cache-from", bad+"/"+u.Name+"/cache")...).OK(t)
		if got := ms.digest(); got != want || flipped.Load() == 0 || !strings.Contains(r.Stderr, "CacheRefused") {
			t.Errorf("the image is %s instead of %s, %d layers were flipped:\n%s", got, want, flipped.Load(), r.Stderr)
		}
		if done, cached := steps(r.Stderr); len(done) == 0 {
			t.Errorf("nothing was made again: %q", cached)
		}
	})
}

// TestTrustEnds: what was built while an import was believed, on what only the import says, is not used by builds that do not name it.
func TestTrustEnds(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	ms := newMachines(t, harness.Unprivileged(t))
	ms.Files(map[string]string{"ctx/Dockerfile": "FROM " + base + "\nRUN mkdir /dir && ln -s /dir /link\nCOPY f /link/f\n", "ctx/f": "1\n"})
	cache := registry.Name("team/cache")
	ms.empty().build("ctx", "--cache-to", "type=registry,mode=max,ref="+cache).OK(t)
	ms.Files(map[string]string{"ctx/f": "2\n"})
	m := ms.empty()
	push := func(n string, more ...string) harness.Result {
		return m.build(append([]string{"ctx", "--push", "-t", registry.Name("app:" + n)}, more...)...).OK(t)
	}
	if done, cached := steps(push("1", "--cache-from", cache).Stderr); len(done) != 1 || len(cached) != 1 {
		t.Fatalf("carried out %q, cached %q", done, cached)
	}
	if done, cached := steps(push("2", "--cache-from", cache).Stderr); len(done) != 0 || len(cached) != 2 {
		t.Errorf("with the import again: carried out %q, cached %q", done, cached)
	}
	if done, _ := steps(push("3").Stderr); len(done) != 2 {
		t.Errorf("without the import: carried out %q", done)
	}
	if done, cached := steps(push("4").Stderr); len(done) != 0 || len(cached) != 2 {
		t.Errorf("then: carried out %q, cached %q", done, cached)
	}
}
