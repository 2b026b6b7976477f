package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/registry"
)

// phase is one kind of request of a push or a pull, by what it looks like.
type phase struct {
	name  string
	push  bool
	match func(r *http.Request) bool
}

// phases returns them; layer and config are paths of blobs.
func phases(layer, config string) []phase {
	is := func(method, part string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Method == method && strings.Contains(r.URL.Path, part) }
	}
	mount := func(r *http.Request) bool { return r.Method == "POST" && r.URL.Query().Has("mount") }
	return []phase{
		{"token", false, func(r *http.Request) bool { return r.URL.Path == "/token" }},
		{"GET manifest", false, is("GET", "/manifests/latest")},
		{"GET config", false, is("GET", config)},
		{"GET layer", false, is("GET", layer)},
		{"mount", true, mount},
		{"POST", true, func(r *http.Request) bool { return r.Method == "POST" && !mount(r) }},
		{"PATCH", true, is("PATCH", "/uploads/")},
		{"PUT blob", true, is("PUT", "/uploads/")},
		{"PUT manifest", true, is("PUT", "/manifests/")},
		// Two more than the plan has.
		{"ping", false, func(r *http.Request) bool { return r.URL.Path == "/v2/" }},
		{"HEAD blob", true, is("HEAD", "/blobs/")},
	}
}

type handler = func(w http.ResponseWriter, r *http.Request) bool

// fault is a way to misbehave.
type fault struct {
	name string
	do   handler
	// lasting faults may end in an error even if they happen once: trying again is of no use, or what was wrong has been passed on.
	lasting bool
	// serves is set where the registry does what it is asked, whatever it then says.
	serves bool
}

func (f *fake) faults() []fault {
	status := func(code int, h ...string) handler {
		return func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			for i := 0; i+1 < len(h); i += 2 {
				w.Header().Set(h[i], h[i+1])
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, `{"errors":[{"code":"SICK","message":"not\u001b[31m well\nat all"}]}`)
			return true
		}
	}
	answer := func(change func(status int, body []byte) []byte) handler {
		return func(w http.ResponseWriter, r *http.Request) bool { return f.relay(w, r, change) }
	}
	return []fault{
		{name: "429", do: status(429)},
		{name: "429 wait 7", do: status(429, "Retry-After", "7")},
		{name: "500", do: status(500)},
		{name: "502", do: status(502)},
		{name: "503 until", do: status(503, "Retry-After", time.Unix(1700000009, 0).UTC().Format(http.TimeFormat))},
		{name: "401", do: status(401, "WWW-Authenticate", `Bearer realm="`+f.URL+`/token",service="fake"`)},
		{name: "no answer", do: func(_ http.ResponseWriter, r *http.Request) bool { return f.hang(r) }},
		{name: "stalled body", do: func(w http.ResponseWriter, r *http.Request) bool { return f.stall(w, r) }},
		{name: "truncated body", do: func(w http.ResponseWriter, r *http.Request) bool { return f.half(w, r, false) }},
		{name: "extra body", lasting: true, do: answer(func(_ int, b []byte) []byte { return append(bytes.Clone(b), "more"...) })},
		{name: "wrong digest", lasting: true, do: answer(func(_ int, b []byte) []byte {
			if b = bytes.Clone(b); len(b) > 0 {
				b[len(b)/2] ^= 1
			}
			return b
		})},
		{name: "wrong length", lasting: true, do: answer(func(_ int, b []byte) []byte { return b[:max(0, len(b)-1)] })},
		{name: "reset in the download", do: func(w http.ResponseWriter, r *http.Request) bool { return f.half(w, r, true) }},
		{name: "reset in the upload", do: func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			return hijack(w, true, "")
		}},
		{name: "answer lost", serves: true, do: func(w http.ResponseWriter, r *http.Request) bool { return f.lost(w, r) }},
		{name: "redirect loop", lasting: true, do: func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.RequestURI(), http.StatusTemporaryRedirect)
			return true
		}},
		{name: "bad JSON", lasting: true, do: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == "GET" {
				_, _ = io.WriteString(w, `{"token": "tok", "mani`)
				return true
			}
			rec := httptest.NewRecorder()
			f.serve(rec, r)
			w.WriteHeader(rec.Code)
			_, _ = io.WriteString(w, `{"token": "tok", "mani`)
			return true
		}},
		{name: "wrong Content-Type", lasting: true, do: func(w http.ResponseWriter, r *http.Request) bool {
			return f.relay(typed{w}, r, func(_ int, b []byte) []byte { return b })
		}},
		{name: "other Location", lasting: true, do: func(w http.ResponseWriter, r *http.Request) bool {
			return f.relay(moved{w}, r, func(_ int, b []byte) []byte { return b })
		}},
		{name: "416", lasting: true, do: status(416)},
		// Four more than the plan has.
		{name: "408", do: status(408)},
		{name: "504", do: status(504)},
		{name: "closed", do: func(w http.ResponseWriter, _ *http.Request) bool { return hijack(w, false, "") }},
		{name: "404", lasting: true, do: status(404)},
	}
}

// typed and moved change a header before it is sent.
type typed struct{ http.ResponseWriter }

func (w typed) WriteHeader(code int) {
	w.Header().Set("Content-Type", "text/html")
	w.ResponseWriter.WriteHeader(code)
}

type moved struct{ http.ResponseWriter }

func (w moved) WriteHeader(code int) {
	if w.Header().Get("Location") != "" {
		w.Header().Set("Location", "/v2/some/thing/blobs/uploads/elsewhere")
	}
	w.ResponseWriter.WriteHeader(code)
}

// hang takes a request and says nothing.
func (f *fake) hang(r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	// The client is told that its time is up until it has gone.
	bark := f.bark()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			bark()
		case <-r.Context().Done():
			return true
		case <-f.gone:
			return true
		}
	}
}

// stall answers as the registry would, and stops before the end.
func (f *fake) stall(w http.ResponseWriter, r *http.Request) bool {
	rec := httptest.NewRecorder()
	f.serve(rec, r)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	size := max(10, rec.Body.Len())
	w.Header().Set("Content-Length", fmt.Sprint(size))
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	_ = http.NewResponseController(w).Flush()
	if r.Method == "HEAD" {
		return true // it has no body: the client has all of it, and goes on to use the connection
	}
	return f.hang(r)
}

// lost lets the registry do the work and drops its answer.
func (f *fake) lost(w http.ResponseWriter, r *http.Request) bool {
	f.serve(httptest.NewRecorder(), r)
	return hijack(w, true, "")
}

// half sends a part of what the registry would.
func (f *fake) half(w http.ResponseWriter, r *http.Request, reset bool) bool {
	rec := httptest.NewRecorder()
	f.serve(rec, r)
	if rec.Body.Len() < 2 {
		return hijack(w, reset, "HTTP/1.1 200 OK\r\nContent-Le")
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "HTTP/1.1 %d OK\r\n", rec.Code)
	rec.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
	_ = rec.Header().Write(&head)
	return hijack(w, reset, head.String()+"\r\n"+rec.Body.String()[:rec.Body.Len()/2])
}

// TestFaults is T6: every request of a push and a pull fails in every way, once and always. Once is got over where that can be, and what arrives is
// always what was sent; always is one clear error, in a minute of the client's clock and few attempts, and leaves no image.
func TestFaults(t *testing.T) {
	img := newImage(300_000)
	layer, config := "/blobs/"+img.layerD.Digest.String(), "/blobs/"+img.configDesc.Digest.String()
	n := 0
	for _, ph := range phases(layer, config) {
		for i, flt := range newFake(t).faults() {
			for _, always := range []bool{false, true} {
				n++
				name := fmt.Sprintf("%s/%s/always=%t", ph.name, flt.name, always)
				c := faultCase{img: img, phase: ph, fault: i, always: always}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					c.run(t)
				})
			}
		}
	}
	if n < 360 {
		t.Errorf("%d cases, the plan has 360", n)
	}
}

// faultCase is one fault in one phase.
type faultCase struct {
	img    image
	phase  phase
	fault  int // of fake.faults
	always bool
}

func (c faultCase) run(t *testing.T) {
	f := newFake(t)
	f.auth = true
	repo := f.host() + "/some/thing"
	other := f.host() + "/other/thing"
	if c.phase.name == "mount" {
		up := registry.Upload{Open: opener(c.img.layer)}
		if err := newClient(t, registry.Options{}).PushBlob(t.Context(), other, c.img.layerD, up); err != nil {
			t.Fatal(err)
		}
	}
	if !c.phase.push {
		if err := push(t.Context(), newClient(t, registry.Options{}), repo, "latest", c.img); err != nil {
			t.Fatal(err)
		}
	}
	flt := f.faults()[c.fault]
	var hits atomic.Int32
	// The registry keeps the blobs of all repositories together, so a blob that is to be mounted is hidden until that was tried.
	var mounted atomic.Bool
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if c.phase.name == "mount" && r.Method == "HEAD" && !mounted.Load() {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		if !c.phase.match(r) || hits.Add(1) > 1 && !c.always {
			mounted.Store(mounted.Load() || r.Method == "POST" || r.Method == "PUT")
			return false
		}
		mounted.Store(flt.serves)
		return flt.do(w, r)
	})
	clock := &fakeClock{now: time.Unix(1700000000, 0)}
	client := newClient(t, registry.Options{Clock: clock})
	f.bark = registry.Idle(client)
	registry.SetMonolithic(client, 1000)
	err := c.work(t.Context(), client, repo, other)
	if hits.Load() == 0 {
		t.Fatal("the fault did not happen")
	}
	if hits.Load() > 30 {
		t.Errorf("%d requests", hits.Load())
	}
	c.check(t, err, flt, clock)
	f.setFault(nil)
	c.after(t, err, repo)
}

// work pushes or pulls.
func (c faultCase) work(ctx context.Context, client *registry.Client, repo, other string) error {
	if !c.phase.push {
		return pull(ctx, client, repo, "latest", c.img)
	}
	up := registry.Upload{Open: opener(c.img.layer)}
	if c.phase.name == "mount" {
		up.MountFrom = []string{other}
	}
	if err := client.PushBlob(ctx, repo, c.img.layerD, up); err != nil {
		return err
	}
	return push(ctx, client, repo, "latest", c.img)
}

// check looks at what came of it.
func (c faultCase) check(t *testing.T, err error, flt fault, clock *fakeClock) {
	t.Helper()
	if clock.total() > time.Minute {
		t.Errorf("waited %v", clock.total())
	}
	if err == nil {
		if want := map[string]time.Duration{"429 wait 7": 7 * time.Second, "503 until": 9 * time.Second}[flt.name]; want != 0 && clock.total() != want {
			t.Errorf("waited %v, the registry asked for %v", clock.slept, want)
		}
		return
	}
	refused := c.phase.name == "token" && flt.name == "401"
	if !c.always && !flt.lasting && !refused {
		t.Fatalf("one fault was not got over: %v", err)
	}
	if e := new(registry.Error); !errors.As(err, &e) {
		if strings.HasPrefix(err.Error(), "resolved to") {
			return // another image under the tag, whole: the registry's word
		}
		t.Errorf("%T is no *registry.Error: %v", err, err)
	}
	if msg := err.Error(); strings.ContainsAny(msg, "\n\x1b") || !strings.Contains(msg, "/some/thing") || len(msg) > 700 {
		t.Errorf("not a good error: %q", msg)
	}
}

// after checks, without faults, that there is either the whole image or none, and that the same thing done again succeeds.
func (c faultCase) after(t *testing.T, err error, repo string) {
	t.Helper()
	fresh := newClient(t, registry.Options{})
	if err != nil && c.phase.push && c.phase.name != "PUT manifest" {
		if _, _, rerr := fresh.Resolve(t.Context(), repo+":latest"); !errors.Is(rerr, fs.ErrNotExist) {
			t.Errorf("the push failed, and the tag is there: %v", rerr)
		}
	}
	if err != nil && c.phase.push {
		if err := push(t.Context(), fresh, repo, "latest", c.img); err != nil {
			t.Errorf("pushing without the fault: %v", err)
		}
	}
	if err := pull(t.Context(), fresh, repo, "latest", c.img); err != nil {
		t.Errorf("pulling without the fault: %v", err)
	}
}
