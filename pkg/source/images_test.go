package source_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// counted is the embedded registry with a counter and a switch in front.
type counted struct {
	addr string
	mu   sync.Mutex
	log  []string
	hook func(w http.ResponseWriter, r *http.Request) bool
}

func newRegistry(t *testing.T) *counted {
	t.Helper()
	pr, pw := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- registry.Serve(ctx, "127.0.0.1:0", "", pw); pw.Close() }()
	line := make([]byte, 100)
	n, err := pr.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, pr) }()
	back, err := url.Parse("http://" + strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "registry: listening on ")))
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{}
	proxy := httputil.NewSingleHostReverseProxy(back)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.log = append(c.log, r.Method+" "+r.URL.Path)
		hook := c.hook
		c.mu.Unlock()
		if hook == nil || !hook(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	c.addr = srv.Listener.Addr().String()
	t.Cleanup(func() {
		srv.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *counted) reset(hook func(w http.ResponseWriter, r *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log, c.hook = nil, hook
}

func (c *counted) count(part string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.log {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func newClient(t *testing.T) *registry.Client {
	t.Helper()
	c, err := registry.New(registry.Options{Clock: noWait{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

type noWait struct{}

func (noWait) Now() time.Time                                   { return time.Unix(1700000000, 0) }
func (noWait) Sleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// testLayer is a layer with one file.
func testLayer(t *testing.T, name string, content []byte) (layer.Layer, []byte) {
	t.Helper()
	var buf bytes.Buffer
	w, err := layer.NewWriter(&buf, layer.Compression{})
	if err != nil {
		t.Fatal(err)
	}
	e := layer.Entry{Path: name, Type: layer.File, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)}
	if err := w.Add(e, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	id, mediaType, _, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(buf.Bytes()), Size: int64(buf.Len())}
	return layer.Layer{DiffID: id, Descriptor: desc}, buf.Bytes()
}

// made is an image as a test wants it.
type made struct {
	manifest, config []byte
	desc             ocispec.Descriptor
	blobs            map[digest.Digest][]byte
	layers           []layer.Layer
}

func makeImage(t *testing.T, p ocispec.Platform, change func(m *ocispec.Manifest, c *ocispec.Image)) made {
	t.Helper()
	im := made{blobs: map[digest.Digest][]byte{}}
	c := ocispec.Image{Platform: p}
	c.RootFS.Type = "layers"
	c.Config.Env = []string{"WHO=" + p.Architecture + p.Variant}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for i := range 2 {
		l, data := testLayer(t, fmt.Sprintf("file%d", i), bytes.Repeat([]byte(p.Architecture+p.Variant), 10_000*(i+1)))
		im.layers = append(im.layers, l)
		im.blobs[l.Descriptor.Digest] = data
		m.Layers = append(m.Layers, l.Descriptor)
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.DiffID)
	}
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	if change != nil {
		change(&m, &c)
	}
	im.config, _ = json.Marshal(c)
	m.Config.Digest, m.Config.Size = digest.FromBytes(im.config), int64(len(im.config))
	im.blobs[m.Config.Digest] = im.config
	im.manifest, _ = json.Marshal(m)
	im.desc = ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(im.manifest), Size: int64(len(im.manifest)), Platform: &p}
	return im
}

func (im made) push(t *testing.T, c *registry.Client, ref string) {
	t.Helper()
	repo := ref[:strings.LastIndexAny(ref, ":@")]
	for d, data := range im.blobs {
		desc := ocispec.Descriptor{Digest: d, Size: int64(len(data))}
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		if err := c.PushBlob(t.Context(), strings.TrimSuffix(repo, "@sha256"), desc, registry.Upload{Open: open}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PushManifest(t.Context(), ref, im.desc.MediaType, im.manifest); err != nil {
		t.Fatal(err)
	}
}

func pushIndex(t *testing.T, c *registry.Client, ref string, manifests []ocispec.Descriptor) {
	t.Helper()
	ix := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests}
	ix.SchemaVersion = 2
	data, _ := json.Marshal(ix)
	if err := c.PushManifest(t.Context(), ref, ix.MediaType, data); err != nil {
		t.Fatal(err)
	}
}

func TestResolveAndRead(t *testing.T) {
	reg, client, s := newRegistry(t), newClient(t), newStore(t)
	img := makeImage(t, amd64, nil)
	ref := reg.addr + "/base/app:v1"
	img.push(t, client, ref)
	reg.reset(nil)

	im := source.NewImages(source.ImagesOptions{Store: s, Registry: client})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, err := im.ResolveImage(t.Context(), ref, amd64)
			if err != nil || got.Ref != ref || got.Digest != img.desc.Digest || got.Config.Config.Env[0] != "WHO=amd64" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	if reg.count("manifests") != 1 || reg.count("blobs") != 1 {
		t.Errorf("resolving took %q", reg.log)
	}
	got, err := im.ResolveImage(t.Context(), ref, amd64)
	if err != nil {
		t.Fatal(err)
	}
	reg.reset(nil)
	layers, err := im.Layers(t.Context(), got)
	if err != nil || len(layers) != 2 || layers[0].DiffID != img.layers[0].DiffID || layers[1].Origin != reg.addr+"/base/app" {
		t.Fatalf("%+v, %v", layers, err)
	}
	if len(reg.log) != 0 {
		t.Errorf("listing layers took %q", reg.log)
	}
	for range 6 {
		wg.Go(func() {
			ix, err := im.Index(t.Context(), layers[0])
			if err != nil {
				t.Error(err)
			} else if _, ok := ix.Lookup("file0"); !ok {
				t.Errorf("%d entries, no file0", ix.Len())
			}
		})
		wg.Go(func() {
			rc, err := im.Blob(t.Context(), layers[1])
			if err != nil {
				t.Error(err)
				return
			}
			defer rc.Close()
			data, err := io.ReadAll(rc)
			if err != nil || !bytes.Equal(data, img.blobs[layers[1].Descriptor.Digest]) {
				t.Errorf("%d bytes, %v", len(data), err)
			}
		})
	}
	wg.Wait()
	if reg.count("blobs") != 2 {
		t.Errorf("reading two layers took %q", reg.log)
	}

	// The next build asks whether the tag has moved, and fetches nothing.
	reg.reset(nil)
	im = source.NewImages(source.ImagesOptions{Store: s, Registry: client})
	if again, err := im.ResolveImage(t.Context(), ref, amd64); err != nil || again.Digest != got.Digest {
		t.Error(again, err)
	}
	if reg.count("GET /v2/base") != 0 || reg.count("HEAD /v2/base") != 1 {
		t.Errorf("the second build took %q", reg.log)
	}
	other := makeImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64", Variant: "v2"}, nil)
	other.push(t, client, ref)
	im = source.NewImages(source.ImagesOptions{Store: s, Registry: client})
	if moved, err := im.ResolveImage(t.Context(), ref, amd64); err != nil || moved.Digest != other.desc.Digest {
		t.Errorf("the tag has moved: %v, %v", moved.Digest, err)
	}
}

func TestPlatforms(t *testing.T) {
	reg, client := newRegistry(t), newClient(t)
	repo := reg.addr + "/multi"
	list := func(ps ...ocispec.Platform) (out []ocispec.Descriptor) {
		for _, p := range ps {
			img := makeImage(t, p, nil)
			img.push(t, client, repo+"@"+img.desc.Digest.String())
			out = append(out, img.desc)
		}
		return out
	}
	lin := func(arch, variant string) ocispec.Platform {
		return ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}
	}
	unknown := makeImage(t, ocispec.Platform{OS: "unknown", Architecture: "unknown"}, nil)
	unknown.push(t, client, repo+"@"+unknown.desc.Digest.String())
	full := append([]ocispec.Descriptor{unknown.desc}, list(lin("amd64", ""), lin("arm", "v6"), lin("arm", "v7"), lin("arm64", "v8"),
		ocispec.Platform{OS: "windows", Architecture: "amd64"})...)
	pushIndex(t, client, repo+":full", full)
	silent := list(lin("s390x", ""), lin("amd64", ""))
	for i := range silent {
		silent[i].Platform = nil
	}
	pushIndex(t, client, repo+":silent", silent)
	pushIndex(t, client, repo+":empty", nil)
	makeImage(t, lin("s390x", ""), nil).push(t, client, repo+":single")
	for _, tt := range []struct {
		tag      string
		platform ocispec.Platform
		want     string
	}{
		{"full", lin("amd64", ""), "WHO=amd64"},
		{"full", lin("x86_64", ""), "WHO=amd64"},
		{"full", lin("arm64", ""), "WHO=arm64v8"},
		{"full", lin("arm", "v7"), "WHO=armv7"},
		{"full", lin("arm", "v6"), "WHO=armv6"},
		{"full", lin("arm", "v5"), ""},
		{"full", lin("riscv64", ""), ""},
		{"silent", lin("amd64", ""), "WHO=amd64"},
		{"silent", lin("s390x", ""), "WHO=s390x"},
		{"empty", lin("amd64", ""), ""},
		{"single", lin("amd64", ""), "WHO=s390x"},
	} {
		im := source.NewImages(source.ImagesOptions{Store: newStore(t), Registry: client})
		got, err := im.ResolveImage(t.Context(), "docker-image://"+repo+":"+tt.tag, tt.platform)
		env := ""
		if err == nil {
			env = got.Config.Config.Env[0]
		}
		if env != tt.want {
			t.Errorf("%s for %v: %q, %v", tt.tag, tt.platform, env, err)
		}
		if err != nil && !strings.Contains(err.Error(), "there are: ") {
			t.Errorf("the error does not say what there is: %v", err)
		}
	}
}

func TestLocalNames(t *testing.T) {
	reg, client, s := newRegistry(t), newClient(t), newStore(t)
	ref := reg.addr + "/app:v1"
	here, there := makeImage(t, amd64, nil), makeImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64", Variant: "v3"}, nil)
	there.push(t, client, ref)
	for d, data := range here.blobs {
		if _, err := s.PutBlob(t.Context(), "", data); err != nil {
			t.Fatal(d, err)
		}
	}
	if _, err := s.PutBlob(t.Context(), here.desc.MediaType, here.manifest); err != nil {
		t.Fatal(err)
	}
	if err := s.SetRef(ref, here.desc); err != nil {
		t.Fatal(err)
	}
	elsewhere := here.layers[1]
	elsewhere.Origin = "docker.io/library/debian"
	if err := s.PutLayer(elsewhere, nil); err != nil {
		t.Fatal(err)
	}
	reg.reset(nil)
	im := source.NewImages(source.ImagesOptions{Store: s, Registry: client})
	got, err := im.ResolveImage(t.Context(), ref, amd64)
	if err != nil || got.Digest != here.desc.Digest || len(reg.log) > 0 {
		t.Errorf("%v %v %q", got.Digest, err, reg.log)
	}
	layers, err := im.Layers(t.Context(), got)
	if err != nil || layers[0].Origin != "" || layers[1].Origin != "docker.io/library/debian" {
		t.Errorf("%+v, %v", layers, err)
	}
	im = source.NewImages(source.ImagesOptions{Store: s, Registry: client, Pull: true})
	if got, err := im.ResolveImage(t.Context(), ref, amd64); err != nil || got.Digest != there.desc.Digest {
		t.Errorf("with Pull: %v %v", got.Digest, err)
	}
	// Here is none for arm64, so the registry is asked; it has one image, which is taken as it is.
	im = source.NewImages(source.ImagesOptions{Store: s, Registry: client})
	if got, err := im.ResolveImage(t.Context(), ref, ocispec.Platform{OS: "linux", Architecture: "arm64"}); err != nil || got.Digest != there.desc.Digest {
		t.Errorf("for another platform: %v %v", got.Digest, err)
	}
}

// TestDamagedLocalImage: a name that the user gave to an image of his own must never come to mean a stranger's because the image is damaged.
func TestDamagedLocalImage(t *testing.T) {
	reg, client, s := newRegistry(t), newClient(t), newStore(t)
	ref := reg.addr + "/app:v1"
	makeImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64", Variant: "v3"}, nil).push(t, client, ref)
	here := makeImage(t, amd64, nil)
	if _, err := s.PutBlob(t.Context(), here.desc.MediaType, here.manifest); err != nil {
		t.Fatal(err)
	}
	if err := s.SetRef(ref, here.desc); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(s.Root(), "blobs", "sha256", here.desc.Digest.Encoded())
	if err := os.Chmod(blob, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, bytes.Repeat([]byte("x"), int(here.desc.Size)), 0o600); err != nil {
		t.Fatal(err)
	}
	reg.reset(nil)
	for range 2 { // the first reader drops the blob, the second finds none
		im := source.NewImages(source.ImagesOptions{Store: s, Registry: client})
		if got, err := im.ResolveImage(t.Context(), ref, amd64); err == nil || len(reg.log) > 0 {
			t.Errorf("a damaged image of the local store was taken for %v, %v, after asking the registry %q", got.Digest, err, reg.log)
		}
	}
}

func TestOffline(t *testing.T) {
	reg, client, s := newRegistry(t), newClient(t), newStore(t)
	img := makeImage(t, amd64, nil)
	ref, pinned := reg.addr+"/app:v1", reg.addr+"/app@"+img.desc.Digest.String()
	img.push(t, client, ref)
	im := source.NewImages(source.ImagesOptions{Store: s, Registry: client})
	got, err := im.ResolveImage(t.Context(), ref, amd64)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := im.Layers(t.Context(), got)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Fetch(t.Context(), layers[0]); err != nil {
		t.Fatal(err)
	}
	reg.reset(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true })

	online := source.NewImages(source.ImagesOptions{Store: s, Registry: client})
	if _, err := online.ResolveImage(t.Context(), ref, amd64); err == nil || !strings.Contains(err.Error(), img.desc.Digest.String()) {
		t.Errorf("an unreachable registry: %v", err)
	}
	if _, err := online.ResolveImage(t.Context(), pinned, amd64); err != nil {
		t.Errorf("pinned: %v", err)
	}
	reg.reset(nil)
	offline := source.NewImages(source.ImagesOptions{Store: s, Registry: client, Offline: true})
	if _, err := offline.ResolveImage(t.Context(), ref, amd64); err != nil {
		t.Errorf("offline: %v", err)
	}
	if _, err := offline.ResolveImage(t.Context(), reg.addr+"/app:v2", amd64); err == nil {
		t.Error("offline, never seen: no error")
	}
	if ix, err := offline.Index(t.Context(), layers[0]); err != nil || ix.Len() == 0 {
		t.Errorf("offline, held: %v", err)
	}
	if _, err := offline.Blob(t.Context(), layers[1]); err == nil {
		t.Error("offline, not held: no error")
	}
	if len(reg.log) > 0 {
		t.Errorf("offline took %q", reg.log)
	}
}

func TestPartialRead(t *testing.T) {
	reg, client, s := newRegistry(t), newClient(t), newStore(t)
	big, data := testLayer(t, "big", incompressible(3<<20))
	repo := reg.addr + "/app"
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	if err := client.PushBlob(t.Context(), repo, big.Descriptor, registry.Upload{Open: open}); err != nil {
		t.Fatal(err)
	}
	big.Origin = repo
	im := source.NewImages(source.ImagesOptions{Store: s, Registry: client})
	rc, err := im.Blob(t.Context(), big)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, rc, 1000); err != nil {
		t.Fatal(err)
	}
	// Another one waits for this, and goes on when this gives up.
	second := make(chan error, 1)
	go func() { second <- im.Fetch(t.Context(), big) }()
	rc.Close()
	if err := <-second; err != nil {
		t.Error(err)
	}
	if _, ok := s.HasBlob(big.Descriptor.Digest); !ok {
		t.Error("not kept")
	}
	if _, err := rc.Read(make([]byte, 1)); err == nil {
		t.Error("reading what is closed")
	}
}

func incompressible(n int) []byte {
	out := make([]byte, 0, n+32)
	for i := 0; len(out) < n; i++ {
		sum := digest.FromString(fmt.Sprint(i))
		out = append(out, sum.Encoded()...)
	}
	return out[:n]
}

func TestHostileImages(t *testing.T) {
	reg, client := newRegistry(t), newClient(t)
	for i, tt := range []struct {
		name   string
		change func(m *ocispec.Manifest, c *ocispec.Image)
		layers bool // the image resolves, its layers do not read
	}{
		{"fewer DiffIDs", func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] }, false},
		{"false DiffID", func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[0] = c.RootFS.DiffIDs[1] }, true},
		{"no DiffID", func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[0] = "sha256:../../etc" }, false},
		{"layer digest", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Digest = "sha256:../../../etc/passwd" }, false},
		{"negative size", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Size = -1 }, false},
		{"wrong size", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Size++ }, true},
		{"layer type", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].MediaType = "text/html" }, false},
		{"no image", func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json"
		}, false},
		{"many layers", func(m *ocispec.Manifest, c *ocispec.Image) {
			for len(m.Layers) <= 1000 {
				m.Layers = append(m.Layers, m.Layers[0])
				c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, c.RootFS.DiffIDs[0])
			}
		}, false},
		{"missing layer", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Digest = digest.FromString("nowhere") }, true},
		{"foreign layer", func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0] = ocispec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
				Digest: digest.FromString("elsewhere"), Size: 9, URLs: []string{"http://" + reg.addr + "/stolen"}}
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			img := makeImage(t, amd64, tt.change)
			ref := fmt.Sprintf("%s/hostile%d:v1", reg.addr, i)
			img.push(t, client, ref)
			im := source.NewImages(source.ImagesOptions{Store: s, Registry: client})
			got, err := im.ResolveImage(t.Context(), ref, amd64)
			if err == nil && tt.layers {
				var layers []layer.Layer
				if layers, err = im.Layers(t.Context(), got); err != nil {
					t.Fatal(err)
				}
				_, err = im.Index(t.Context(), layers[0])
				if _, kerr := s.LayerIndex(layers[0].DiffID); kerr == nil {
					t.Error("something was remembered of it")
				}
				if _, _, perr := im.Pull(t.Context(), ref, amd64); perr == nil {
					t.Error("it could be pulled")
				}
			}
			if err == nil {
				t.Error("accepted")
			}
			t.Log(err)
		})
	}
	if reg.count("stolen") > 0 {
		t.Error("a layer's URL was asked")
	}
}

func TestPull(t *testing.T) {
	reg, client, s := newRegistry(t), newClient(t), newStore(t)
	img := makeImage(t, amd64, nil)
	ref := reg.addr + "/app:v1"
	img.push(t, client, ref)
	im := source.NewImages(source.ImagesOptions{Store: s, Registry: client, Pull: true})
	name, desc, err := im.Pull(t.Context(), ref, amd64)
	if err != nil || name != ref || desc.Digest != img.desc.Digest {
		t.Fatal(name, desc, err)
	}
	if problems := s.Check(t.Context(), true); len(problems) > 0 {
		t.Error(problems)
	}
	for d := range img.blobs {
		if _, ok := s.HasBlob(d); !ok {
			t.Errorf("%s is not held", d)
		}
	}
	if d, err := s.Ref(ref); err != nil || d.Digest != img.desc.Digest || d.MediaType != img.desc.MediaType {
		t.Error(d, err)
	}
}

func TestLayout(t *testing.T) {
	reg, client := newRegistry(t), newClient(t)
	img := makeImage(t, amd64, nil)
	img.push(t, client, reg.addr+"/app:v1")
	dir := filepath.Join(t.TempDir(), "a@b", "layout")
	if err := os.Mkdir(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	copyTo := func(tag string) {
		out, err := exec.Command("skopeo", "copy", "--src-tls-verify=false", "docker://"+reg.addr+"/app:v1", "oci:"+dir+":"+tag).CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo: %v\n%s", err, out)
		}
	}
	copyTo("v1")
	resolve := func(s *store.Store, url string) (plan.ResolvedImage, []layer.Layer, error) {
		im := source.NewImages(source.ImagesOptions{Store: s, Registry: client})
		got, err := im.ResolveImage(t.Context(), url, amd64)
		if err != nil {
			return got, nil, err
		}
		layers, err := im.Layers(t.Context(), got)
		return got, layers, err
	}
	for _, tt := range []struct {
		url string
		ok  bool
	}{
		{dir, true}, {dir + ":v1", true}, {dir + "@" + img.desc.Digest.String(), true}, {dir + ":v2", false},
		{dir + "@" + digest.FromString("x").String(), false}, {dir + "@sha256:../../x", false}, {dir + "/blobs", false}, {dir + "x", false},
	} {
		s := newStore(t)
		got, layers, err := resolve(s, "oci-layout://"+tt.url)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.url, err)
		}
		if err != nil {
			continue
		}
		if got.Digest != img.desc.Digest || len(layers) != 2 || layers[0].Origin != "" {
			t.Errorf("%s: %+v %+v", tt.url, got, layers)
		}
		im := source.NewImages(source.ImagesOptions{Store: s, Registry: client})
		if _, err := im.Index(t.Context(), layers[1]); err != nil {
			t.Errorf("%s: %v", tt.url, err)
		}
	}
	// What is no regular file is not read, whether it is the config or a layer.
	for _, d := range []digest.Digest{digest.FromBytes(img.config), img.layers[0].Descriptor.Digest} {
		blob := filepath.Join(dir, "blobs", "sha256", d.Encoded())
		data, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		outside := filepath.Join(t.TempDir(), "outside")
		if err := os.WriteFile(outside, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for name, plant := range map[string]func() error{
			"symlink":         func() error { return os.Symlink(outside, blob) },
			"symlink inside":  func() error { return os.Symlink("../../index.json", blob) },
			"fifo":            func() error { return syscall.Mkfifo(blob, 0o600) },
			"directory":       func() error { return os.Mkdir(blob, 0o700) },
			"other content":   func() error { return os.WriteFile(blob, []byte("other"), 0o600) },
			"flipped content": func() error { return os.WriteFile(blob, flip(data), 0o600) },
			"nothing":         func() error { return nil },
		} {
			if err := os.RemoveAll(blob); err != nil {
				t.Fatal(err)
			}
			if err := plant(); err != nil {
				t.Fatal(err)
			}
			_, _, err := resolve(newStore(t), "oci-layout://"+dir+":v1")
			if err == nil {
				t.Errorf("%s: accepted", name)
			}
			t.Logf("%s: %v", name, err)
		}
		if err := os.RemoveAll(blob); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(blob, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A second image under another tag makes the choice a question.
	copyTo("v2")
	if _, _, err := resolve(newStore(t), "oci-layout://"+dir); err == nil || !strings.Contains(err.Error(), "v2") {
		t.Errorf("two tags: %v", err)
	}
}

func flip(data []byte) []byte {
	data = bytes.Clone(data)
	data[len(data)/2] ^= 1
	return data
}
