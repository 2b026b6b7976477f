package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cairn-build/cairn/pkg/registry"
)

func TestPushOnce(t *testing.T) {
	img := newImage(2_000_000)
	f := newFake(t)
	c := newClient(t, registry.Options{})
	var opened atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			var last int64
			err := c.PushBlob(t.Context(), f.host()+"/a", img.layerD, registry.Upload{
				Open:     func() (io.ReadCloser, error) { opened.Add(1); return opener(img.layer)() },
				Progress: func(n int64) { last = n },
			})
			if err != nil || last != img.layerD.Size {
				t.Errorf("progress %d, %v", last, err)
			}
		})
	}
	wg.Wait()
	if opened.Load() != 1 || f.count("PUT") != 1 {
		t.Errorf("opened %d times, %d uploads", opened.Load(), f.count("PUT"))
	}
	f.setFault(nil)
	if err := c.PushBlob(t.Context(), f.host()+"/a", img.layerD, registry.Upload{Open: opener(img.layer)}); err != nil {
		t.Fatal(err)
	}
	if f.count("HEAD") != 1 || f.count("") != 1 {
		t.Errorf("what is there took %q", f.log)
	}
}

// TestPushOnceCancelled: one caller giving up does not fail the others.
func TestPushOnceCancelled(t *testing.T) {
	img := newImage(1000)
	f := newFake(t)
	c := newClient(t, registry.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	var once sync.Once
	f.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == "POST" {
			once.Do(func() { close(started); cancel(); <-r.Context().Done() })
		}
		return false
	})
	errs := make(chan error, 1)
	go func() {
		errs <- c.PushBlob(ctx, f.host()+"/a", img.layerD, registry.Upload{Open: opener(img.layer)})
	}()
	<-started
	if err := c.PushBlob(t.Context(), f.host()+"/a", img.layerD, registry.Upload{Open: opener(img.layer)}); err != nil {
		t.Error(err)
	}
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestMount(t *testing.T) {
	img := newImage(1000)
	f := newFake(t)
	f.auth = true
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "POST" && r.URL.Query().Get("mount") != "" && r.Header.Get("Authorization") != "" {
			if r.URL.Query().Get("from") != "base/debian" || r.URL.Query().Get("mount") != img.layerD.Digest.String() {
				t.Errorf("asked for %s", r.URL)
			}
			w.WriteHeader(201)
			return true
		}
		return false
	})
	up := registry.Upload{
		Open:      func() (io.ReadCloser, error) { return nil, errors.New("must not be opened") },
		MountFrom: []string{"docker.io/library/debian", f.host() + "/base/debian", f.host() + "/a"},
	}
	if err := newClient(t, registry.Options{}).PushBlob(t.Context(), f.host()+"/a", img.layerD, up); err != nil {
		t.Fatal(err)
	}
	var scopes string
	for _, l := range f.log {
		if strings.Contains(l, "/token") {
			scopes += l + "\n"
		}
	}
	if !strings.Contains(scopes, "repository%3Aa%3Apull%2Cpush") || !strings.Contains(scopes, "repository%3Abase%2Fdebian%3Apull") {
		t.Errorf("tokens asked for:\n%s", scopes)
	}
	// The embedded registry does not mount: it opens an upload, which is used.
	f.setFault(nil)
	up.Open = opener(img.layer)
	if err := newClient(t, registry.Options{}).PushBlob(t.Context(), f.host()+"/a", img.layerD, up); err != nil {
		t.Fatal(err)
	}
	if n := f.count("POST"); n != 1 {
		t.Errorf("%d sessions: %q", n, f.log)
	}
}

// TestPushBadSource: a source that is not what its descriptor says is an error at once, and never in the registry.
func TestPushBadSource(t *testing.T) {
	img := newImage(200_000)
	for name, open := range map[string]func() (io.ReadCloser, error){
		"longer":  opener(append(bytes.Clone(img.layer), 1)),
		"shorter": opener(img.layer[1:]),
		"broken": func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(img.layer[:70_000]), broken{})), nil
		},
		"closed": func() (io.ReadCloser, error) { return nil, errors.New("no such file") },
		"other":  opener(newImage(200_001).layer[1:]),
	} {
		f := newFake(t)
		clock := &fakeClock{}
		c := newClient(t, registry.Options{Clock: clock})
		err := c.PushBlob(t.Context(), f.host()+"/a", img.layerD, registry.Upload{Open: open})
		if err == nil || len(clock.slept) > 0 {
			t.Errorf("%s: %v after %v", name, err, clock.slept)
		}
		// Of a longer one the registry may have got what it wanted before that was known.
		if err := f.handlerHas("a", img); err == nil && name != "longer" {
			t.Errorf("%s: the registry has the blob", name)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("disk on fire") }

func (f *fake) handlerHas(repo string, img image) error {
	resp, err := f.Client().Head(f.URL + "/v2/" + repo + "/blobs/" + img.layerD.Digest.String())
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

func TestMirrors(t *testing.T) {
	img := newImage(50_000)
	pushed := func() *fake {
		f := newFake(t)
		if err := push(t.Context(), newClient(t, registry.Options{}), f.host()+"/a", "latest", img); err != nil {
			t.Fatal(err)
		}
		if err := push(t.Context(), newClient(t, registry.Options{}), f.host()+"/proxy/a", "latest", img); err != nil {
			t.Fatal(err)
		}
		f.setFault(nil)
		return f
	}
	upstream, good, dead, lying := pushed(), pushed(), newFake(t), pushed()
	dead.Close()
	lying.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/") && lying.relay(w, r, func(_ int, b []byte) []byte {
			if len(b) < 1000 {
				b = bytes.ToUpper(b)
			} else {
				b = b[1:]
			}
			return b
		})
	})
	for _, tt := range []struct {
		name     string
		mirrors  []string
		upstream bool // is asked
	}{
		{"none", nil, true},
		{"good", []string{good.URL}, false},
		{"good with path", []string{good.URL + "/proxy/"}, false},
		{"dead, then good", []string{dead.URL, good.URL}, false},
		{"dead", []string{dead.URL}, true},
		{"lying", []string{lying.URL}, true},
		{"without it", []string{good.URL + "/other"}, true},
	} {
		upstream.setFault(nil)
		c := newClient(t, registry.Options{Mirrors: map[string][]string{upstream.host(): tt.mirrors}})
		if err := pull(t.Context(), c, upstream.host()+"/a", "latest", img); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if asked := upstream.count("") > 0; asked != tt.upstream {
			t.Errorf("%s: the registry itself was asked: %t %q", tt.name, asked, upstream.log)
		}
	}
	// Pushes go to the registry itself.
	c := newClient(t, registry.Options{Mirrors: map[string][]string{upstream.host(): {good.URL}}})
	good.setFault(nil)
	if err := push(t.Context(), c, upstream.host()+"/b", "latest", img); err != nil || good.count("") > 0 {
		t.Errorf("%v; the mirror was sent %q", err, good.log)
	}
	upstream.Close()
	c = newClient(t, registry.Options{Mirrors: map[string][]string{upstream.host(): {good.URL + "/other"}}})
	_, _, err := c.Resolve(t.Context(), upstream.host()+"/a")
	if err == nil || !strings.Contains(err.Error(), "mirror "+good.host()+" answered 404") {
		t.Errorf("the error does not name the mirror: %v", err)
	}
}

func TestParseMirror(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"https://mirror.example", `docker.io ["https://mirror.example"]`},
		{"mirror.example", `docker.io ["https://mirror.example"]`},
		{"quay.io=http://a:5000/x,https://b", `quay.io ["http://a:5000/x" "https://b"]`},
		{"quay.io=", ""}, {"=https://a", ""}, {"quay.io=ftp://a", ""}, {"https://u:p@a", ""}, {"https://a?x=y", ""}, {"", ""},
	} {
		of, urls, err := registry.ParseMirror(tt.in)
		got := fmt.Sprintf("%s %q", of, urls)
		if err != nil {
			got = ""
		}
		if got != tt.want {
			t.Errorf("%q: %s, %v", tt.in, got, err)
		}
	}
}

// TestErrors looks at the text of what users will see.
func TestErrors(t *testing.T) {
	f := newFake(t)
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.Contains(r.URL.Path, "/private/"):
			w.WriteHeader(401)
			_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{"code": "UNAUTHORIZED", "message": "authentication required"}}})
			return true
		case strings.Contains(r.URL.Path, "/denied/"):
			w.WriteHeader(403)
			return true
		}
		return false
	})
	c := newClient(t, registry.Options{})
	for _, tt := range []struct{ ref, want string }{
		{f.host() + "/private/a:v1", "resolving " + f.host() + "/private/a:v1: " + f.host() + " answered 401 Unauthorized (UNAUTHORIZED: authentication required)" +
			" (hint: there is no such repository, or it needs a login (cairn login " + f.host() + "))"},
		{f.host() + "/denied/a", "resolving " + f.host() + "/denied/a:latest: " + f.host() + " answered 403 Forbidden (hint: it may need a login (cairn login " + f.host() + "))"},
		{f.host() + "/none", "resolving " + f.host() + "/none:latest: " + f.host() + " answered 404 Not Found (NAME_UNKNOWN: Unknown name) (hint: check the name and the tag; short names are looked up on docker.io)"},
		{"x/UPPER", "parsing reference x/UPPER: invalid reference format: repository name (x/UPPER) must be lowercase"},
	} {
		_, _, err := c.Resolve(t.Context(), tt.ref)
		if err == nil || err.Error() != tt.want {
			t.Errorf("\n got %v\nwant %s", err, tt.want)
		}
	}
}

// resumable is an upload endpoint that keeps what it has got of a chunk that was cut, and cuts the first.
type resumable struct {
	t       *testing.T
	f       *fake
	cuts    []int
	got     []byte
	ranges  []string
	finally string
}

func (u *resumable) handle(w http.ResponseWriter, r *http.Request) bool {
	if strings.Contains(r.URL.Path, "/manifests/") || r.Method == "HEAD" {
		return false
	}
	w.Header().Set("Location", fmt.Sprintf("session?at=%d", len(u.got)))
	status := func(code int) bool {
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(u.got)-1, 0)))
		w.WriteHeader(code)
		return true
	}
	switch r.Method {
	case "POST":
		w.Header().Set("Location", r.URL.Path+"session?at=0")
		w.WriteHeader(202)
		return true
	case "GET":
		if !strings.Contains(r.URL.Path, "/session") {
			return false
		}
		return status(204)
	case "PATCH":
		u.ranges = append(u.ranges, r.Header.Get("Content-Range"))
		if len(u.cuts) > 0 {
			part, _ := io.ReadAll(io.LimitReader(r.Body, int64(u.cuts[0])))
			u.cuts, u.got = u.cuts[1:], append(u.got, part...)
			return hijack(w, true, "")
		}
		rest, _ := io.ReadAll(r.Body)
		u.got = append(u.got, rest...)
		w.Header().Set("Location", "session?at=end")
		return status(202)
	case "PUT":
		u.finally = r.URL.RawQuery
		w.WriteHeader(201)
		return true
	}
	return false
}

func TestResumeUpload(t *testing.T) {
	img := newImage(3_000_000)
	for _, seek := range []bool{false, true} {
		f := newFake(t)
		u := &resumable{t: t, f: f, cuts: []int{1_000_000, 0, 500_000}}
		f.setFault(u.handle)
		c := newClient(t, registry.Options{})
		registry.SetMonolithic(c, 100_000)
		open := opener(img.layer)
		if seek {
			open = func() (io.ReadCloser, error) { return seekable{bytes.NewReader(img.layer)}, nil }
		}
		var last int64
		err := c.PushBlob(t.Context(), f.host()+"/a", img.layerD, registry.Upload{Open: open, Progress: func(n int64) { last = n }})
		if err != nil || !bytes.Equal(u.got, img.layer) || last != img.layerD.Size {
			t.Fatalf("%v; the registry has %d bytes; progress %d", err, len(u.got), last)
		}
		want := "[ 1000000-2999999 1000000-2999999 1500000-2999999]"
		if fmt.Sprint(u.ranges) != want {
			t.Errorf("sent %q, want %s", u.ranges, want)
		}
		if !strings.HasPrefix(u.finally, "at=end&digest=sha256%3A") {
			t.Errorf("ended with %s", u.finally)
		}
	}
}

type seekable struct{ *bytes.Reader }

func (seekable) Close() error { return nil }

// TestParallel: no more blobs are fetched at once than was asked for, and a slot is given back when a reader is closed or at its end.
func TestParallel(t *testing.T) {
	img := newImage(100_000)
	f := newFake(t)
	repo := f.host() + "/a"
	if err := push(t.Context(), newClient(t, registry.Options{}), repo, "latest", img); err != nil {
		t.Fatal(err)
	}
	var now, most atomic.Int32
	c := newClient(t, registry.Options{Parallel: 2})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			rc, err := c.FetchBlob(t.Context(), repo, img.layerD)
			if err != nil {
				t.Error(err)
				return
			}
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			if i%2 == 0 {
				_, err = io.CopyN(io.Discard, rc, int64(len(img.layer)))
			}
			now.Add(-1)
			if err == nil && i%2 == 0 {
				_, err = io.Copy(io.Discard, rc)
			}
			if err != nil {
				t.Error(err)
			}
			rc.Close()
		})
	}
	wg.Wait()
	if most.Load() > 2 {
		t.Errorf("%d at once", most.Load())
	}
}

// TestTokenExpires: a token that is no longer taken is renewed, also when that is found out in the middle of a push.
func TestTokenExpires(t *testing.T) {
	img := newImage(100_000)
	for _, at := range []string{"HEAD /v2/a/blobs", "POST", "PUT /v2/a/blobs", "PUT /v2/a/manifests", "GET /v2/a/manifests", "GET /v2/a/blobs"} {
		f := newFake(t)
		var tokens atomic.Int32
		var expired atomic.Bool
		f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				_, _ = fmt.Fprintf(w, `{"access_token":"tok%d"}`, tokens.Add(1))
				return true
			}
			if strings.HasPrefix(r.Method+" "+r.URL.Path, at) && expired.CompareAndSwap(false, true) {
				tokens.Add(10) // from now on, none that was given is good
			}
			auth := r.Header.Get("Authorization")
			if auth != "" && (!expired.Load() || len(auth) > len("Bearer tok9")) {
				return false
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+f.URL+`/token",service="fake"`)
			w.WriteHeader(401)
			return true
		})
		c := newClient(t, registry.Options{})
		if err := push(t.Context(), c, f.host()+"/a", "latest", img); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		if err := pull(t.Context(), c, f.host()+"/a", "latest", img); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		if !expired.Load() {
			t.Errorf("%s did not happen", at)
		}
	}
}
