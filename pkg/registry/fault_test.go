package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/registry"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fakeClock makes waiting free and counts it.
type fakeClock struct {
	mu    sync.Mutex
	now   time.Time
	slept []time.Duration
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.slept = append(c.slept, d)
	return ctx.Err()
}

func (c *fakeClock) total() (sum time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.slept {
		sum += d
	}
	return sum
}

// fake is a registry that asks for tokens and misbehaves on demand: fault is called for each request before the registry is, and
// returns true when it has dealt with it.
type fake struct {
	*httptest.Server
	t       *testing.T
	handler http.Handler
	auth    bool // ask for tokens
	mu      sync.Mutex
	fault   func(w http.ResponseWriter, r *http.Request) bool
	log     []string
	bark    func() func() // what the clients' watchdogs hear while the registry is silent
	gone    chan struct{} // closed at the end of the test
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, handler: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))), gone: make(chan struct{})}
	f.Server = httptest.NewServer(f)
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(f.Close)
	t.Cleanup(func() { close(f.gone) })
	return f
}

func (f *fake) host() string { return f.Listener.Addr().String() }

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.log = append(f.log, r.Method+" "+r.URL.RequestURI())
	fault := f.fault
	f.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	f.serve(w, r)
}

// serve answers as a registry in good health.
func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	if f.auth {
		if r.URL.Path == "/token" {
			_ = json.NewEncoder(w).Encode(map[string]any{"token": "tok", "expires_in": 300})
			return
		}
		if r.Header.Get("Authorization") != "Bearer tok" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+f.URL+`/token",service="fake"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	f.handler.ServeHTTP(w, r)
}

func (f *fake) setFault(fn func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.log = fn, nil
}

func (f *fake) count(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.log {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

// image is what the tests push and pull.
type image struct {
	manifest, config, layer       []byte
	manifestD, configDesc, layerD ocispec.Descriptor
}

func newImage(size int) image {
	layer := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = rng.Read(layer)
	img := image{layer: layer, config: []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)}
	img.layerD = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(layer), Size: int64(size)}
	img.configDesc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(img.config), Size: int64(len(img.config))}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: img.configDesc, Layers: []ocispec.Descriptor{img.layerD}}
	m.SchemaVersion = 2
	img.manifest, _ = json.Marshal(m)
	img.manifestD = ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(img.manifest), Size: int64(len(img.manifest))}
	return img
}

func opener(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

func newClient(t *testing.T, o registry.Options) *registry.Client {
	t.Helper()
	if o.Clock == nil {
		o.Clock = &fakeClock{now: time.Unix(1700000000, 0)}
	}
	c, err := registry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func push(ctx context.Context, c *registry.Client, repo, tag string, img image) error {
	if err := c.PushBlob(ctx, repo, img.layerD, registry.Upload{Open: opener(img.layer)}); err != nil {
		return err
	}
	if err := c.PushBlob(ctx, repo, img.configDesc, registry.Upload{Open: opener(img.config)}); err != nil {
		return err
	}
	return c.PushManifest(ctx, repo+":"+tag, img.manifestD.MediaType, img.manifest)
}

func pull(ctx context.Context, c *registry.Client, repo, tag string, img image) error {
	desc, body, err := c.Resolve(ctx, repo+":"+tag)
	if err != nil {
		return err
	}
	if desc.Digest != img.manifestD.Digest || desc.MediaType != img.manifestD.MediaType || !bytes.Equal(body, img.manifest) {
		return fmt.Errorf("resolved to %v", desc)
	}
	if _, _, err := c.Resolve(ctx, repo+"@"+desc.Digest.String()); err != nil {
		return err
	}
	config, err := c.FetchSmall(ctx, repo, img.configDesc, registry.MaxConfig)
	if err != nil {
		return err
	}
	if !bytes.Equal(config, img.config) {
		return errors.New("config differs")
	}
	rc, err := c.FetchBlob(ctx, repo, img.layerD)
	if err != nil {
		return err
	}
	defer rc.Close()
	layer, err := io.ReadAll(rc)
	if err != nil {
		return err
	}
	if !bytes.Equal(layer, img.layer) {
		return errors.New("layer differs")
	}
	return nil
}

// hijack takes the connection over; reset makes the other side see ECONNRESET.
func hijack(w http.ResponseWriter, reset bool, send string) bool {
	conn, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = buf.WriteString(send)
	_ = buf.Flush()
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
	return true
}

// relay answers as the registry would, with the body changed.
func (f *fake) relay(w http.ResponseWriter, r *http.Request, change func(status int, body []byte) []byte) bool {
	rec := httptest.NewRecorder()
	f.serve(rec, r)
	body := change(rec.Code, rec.Body.Bytes())
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body)
	return true
}

// TestAttempts counts the requests of a failure that lasts.
func TestAttempts(t *testing.T) {
	f := newFake(t)
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(429)
			return true
		}
		return false
	})
	clock := &fakeClock{now: time.Unix(1700000000, 0)}
	_, _, err := newClient(t, registry.Options{Clock: clock}).Resolve(t.Context(), f.host()+"/a")
	if err == nil || !strings.Contains(err.Error(), "429") {
		t.Fatal(err)
	}
	if n := f.count("GET /v2/a/manifests"); n != 2 || clock.total() != time.Minute {
		t.Errorf("%d requests, waited %v: want one more after the longest wait", n, clock.slept)
	}
	clock.slept = nil
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.WriteHeader(503)
			return true
		}
		return false
	})
	if _, _, err := newClient(t, registry.Options{Clock: clock}).Resolve(t.Context(), f.host()+"/a"); err == nil {
		t.Fatal("no error")
	}
	if n := f.count("GET /v2/a/manifests"); n != 5 {
		t.Errorf("%d requests, want 5", n)
	}
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.WriteHeader(404)
			return true
		}
		return false
	})
	if _, _, err := newClient(t, registry.Options{}).Resolve(t.Context(), f.host()+"/a"); err == nil {
		t.Fatal("no error")
	}
	if n := f.count("GET /v2/a/manifests"); n != 1 {
		t.Errorf("%d requests for what is not there, want 1", n)
	}
}

// TestWrongBytes gives content that is not what the digest or the size says.
func TestWrongBytes(t *testing.T) {
	img := newImage(100_000)
	changes := map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b },
		"shorter": func(b []byte) []byte { return b[:len(b)-1] },
		"longer":  func(b []byte) []byte { return append(bytes.Clone(b), 'x') },
		"empty":   func([]byte) []byte { return nil },
	}
	for name, change := range changes {
		for _, what := range []string{"/blobs/" + img.layerD.Digest.String(), "/blobs/" + img.configDesc.Digest.String(), "/manifests/sha256:"} {
			t.Run(name+what[:10], func(t *testing.T) {
				f := newFake(t)
				repo := f.host() + "/a"
				if err := push(t.Context(), newClient(t, registry.Options{}), repo, "latest", img); err != nil {
					t.Fatal(err)
				}
				f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
					return r.Method == "GET" && strings.Contains(r.URL.Path, what) && f.relay(w, r, func(_ int, b []byte) []byte { return change(b) })
				})
				err := pull(t.Context(), newClient(t, registry.Options{}), repo, "latest", img)
				if err == nil {
					t.Fatal("wrong bytes were accepted")
				}
				t.Log(err)
			})
		}
	}
}

// TestStalled has the registry stop in the middle of a body, and of a header.
func TestStalled(t *testing.T) {
	img := newImage(100_000)
	for _, where := range []string{"header", "body"} {
		t.Run(where, func(t *testing.T) {
			f := newFake(t)
			repo := f.host() + "/a"
			if err := push(t.Context(), newClient(t, registry.Options{}), repo, "latest", img); err != nil {
				t.Fatal(err)
			}
			var once sync.Once
			f.setFault(func(w http.ResponseWriter, r *http.Request) (done bool) {
				if r.Method == "GET" && strings.Contains(r.URL.Path, img.layerD.Digest.String()) {
					once.Do(func() {
						if where == "body" {
							w.Header().Set("Content-Length", fmt.Sprint(len(img.layer)))
							_, _ = w.Write(img.layer[:1000])
							w.(http.Flusher).Flush()
						}
						<-r.Context().Done()
						done = true
					})
				}
				return done
			})
			c := newClient(t, registry.Options{IdleTimeout: 50 * time.Millisecond})
			if err := pull(t.Context(), c, repo, "latest", img); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestResume checks that a cut download asks for the rest only, and what happens with registries that do not know ranges.
func TestResume(t *testing.T) {
	img := newImage(1_000_000)
	f := newFake(t)
	repo := f.host() + "/a"
	if err := push(t.Context(), newClient(t, registry.Options{}), repo, "latest", img); err != nil {
		t.Fatal(err)
	}
	for _, ranges := range []bool{true, false} {
		var got []string
		f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != "GET" || !strings.Contains(r.URL.Path, img.layerD.Digest.String()) {
				return false
			}
			got = append(got, r.Header.Get("Range"))
			if len(got) == 1 {
				return hijack(w, true, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(img.layer), img.layer[:500_000]))
			}
			if !ranges {
				r.Header.Del("Range")
			}
			return false
		})
		if err := pull(t.Context(), newClient(t, registry.Options{}), repo, "latest", img); err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || got[0] != "" || !strings.HasPrefix(got[1], "bytes=") || !strings.HasSuffix(got[1], "-999999") {
			t.Errorf("asked for %q", got)
		}
	}
}

// allowLoopback is a dial policy for tests in which loopback stands for a public address.
func allowLoopback(string, string, syscall.RawConn) error { return nil }
