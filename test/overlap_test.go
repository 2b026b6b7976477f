package test

import (
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
)

// The sizes of files that do not compress, by which the layers that hold them are known when they are uploaded.
const (
	firstSize = 300_000
	otherSize = 500_000
)

// gate is a registry that also answers /gate/uploaded, once a layer of firstSize has been uploaded, and /gate/never, not at all: a RUN step can
// wait for both. Whoever waits is given up after a while, so that nothing hangs.
type gate struct {
	Addr string
	// refuse answers all uploads with 403.
	refuse bool

	once     sync.Once
	uploaded chan struct{}
	mu       sync.Mutex
	log      []harness.Request
}

const gateLimit = 60 * time.Second

func newGate(t *testing.T, r *harness.Registry) *gate {
	t.Helper()
	g := &gate{uploaded: make(chan struct{})}
	// That a build which is stopped goes away is no error.
	proxy := &httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: r.Addr})
		p.Out.Host = p.In.Host
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.URL.Path == "/gate/uploaded":
			g.wait(w, req, g.uploaded)
		case req.URL.Path == "/gate/never":
			g.wait(w, req, nil)
		case g.refuse && req.Method != http.MethodGet && req.Method != http.MethodHead:
			http.Error(w, `{"errors":[{"code":"DENIED","message":"not yours"}]}`, http.StatusForbidden)
		default:
			rec := &statusWriter{ResponseWriter: w}
			proxy.ServeHTTP(rec, req)
			g.note(req, rec.status)
		}
	}))
	t.Cleanup(server.Close)
	g.Addr = strings.TrimPrefix(server.URL, "http://")
	return g
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (g *gate) wait(w http.ResponseWriter, req *http.Request, until <-chan struct{}) {
	select {
	case <-until:
		_, _ = io.WriteString(w, "ok\n")
	case <-req.Context().Done():
	case <-time.After(gateLimit):
		http.Error(w, "nothing was uploaded", http.StatusGatewayTimeout)
	}
}

func (g *gate) note(req *http.Request, status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log = append(g.log, harness.Request{Method: req.Method, Path: req.URL.Path, Status: status, Sent: req.ContentLength})
	if holds(g.log[len(g.log)-1], firstSize) {
		g.once.Do(func() { close(g.uploaded) })
	}
}

// holds reports whether a request uploaded a layer with a file of that size.
func holds(r harness.Request, size int64) bool {
	return r.Method == http.MethodPut && r.Status == http.StatusCreated && r.Sent >= size && r.Sent < size+10_000
}

// count is how many requests are like that.
func (g *gate) count(is func(harness.Request) bool) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.log {
		if is(r) {
			n++
		}
	}
	return n
}

func (g *gate) last() harness.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log[len(g.log)-1]
}

func (g *gate) manifests() int {
	return g.count(func(r harness.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.Path, "/manifests/")
	})
}

func noise(size int) string {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size >> 16)})
	_, _ = r.Read(b)
	return string(b)
}

// gated is a context whose second step ends only when the layer of the first is in the registry.
func gated(h *harness.Home, base, then string) string {
	h.Files(map[string]string{"ctx/first": noise(firstSize), "ctx/other": noise(otherSize), "ctx/Dockerfile": fmt.Sprintf(
		"FROM %[1]s AS other\nCOPY other /other\n"+
			"FROM %[1]s AS below\nCOPY first /first\n"+
			"FROM below\nCOPY --from=other /etc/passwd /copied\n%s\n", base, then)})
	return "ctx"
}

// TestUploadsWhileBuilding: a finished layer of the target's chain, also of a stage below it, and in whatever form, goes to the registry while later
// steps run; one of a stage that the image does not consist of goes nowhere, and the manifest comes last.
func TestUploadsWhileBuilding(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		for form, suffix := range map[string]string{"": "", ",compression-level=1": "-level1"} {
			g := newGate(t, registry)
			h := harness.NewHome(t, u)
			name := "overlap-" + u.Name + suffix
			dir := gated(h, g.Addr+"/base/busybox", "RUN wget -q -O /answer http://"+g.Addr+"/gate/uploaded")
			build(h, "-t", g.Addr+"/"+name, "-o", "type=registry"+form, dir).OK(t)
			if n := g.count(func(r harness.Request) bool { return holds(r, firstSize) }); n != 1 {
				t.Errorf("the first layer was uploaded %d times", n)
			}
			if n := g.count(func(r harness.Request) bool { return holds(r, otherSize) }); n != 0 {
				t.Error("a layer that is not in the image was uploaded")
			}
			if last := g.last(); !strings.Contains(last.Path, "/manifests/") || g.manifests() != 1 {
				t.Errorf("%d manifests were put, the last request is %v", g.manifests(), last)
			}
			if l := registry.Unpack(t, "docker://"+registry.Name(name+":latest")); l.Read("answer") != "ok\n" || len(l.Read("first")) != firstSize {
				t.Error("the image does not hold what was built")
			}
		}
	})
}

// TestFailedBuildLeavesNoTag: of a build that fails after its first layer was uploaded no manifest is seen.
func TestFailedBuildLeavesNoTag(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	registry.Busybox(t)
	g := newGate(t, registry)
	h := harness.NewHome(t, harness.Unprivileged(t))
	dir := gated(h, g.Addr+"/base/busybox", "RUN wget -q -O /answer http://"+g.Addr+"/gate/uploaded && exit 7")
	build(h, "-t", g.Addr+"/app", "--push", dir).Fails(t, 1, "exit code: 7")
	if n := g.manifests(); n != 0 {
		t.Errorf("%d manifests were put", n)
	}
}

// TestRefusedWhileBuilding: a build that a registry refuses stops when it is refused, and says so, not what became of the step that was stopped.
func TestRefusedWhileBuilding(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	registry.Busybox(t)
	g := newGate(t, registry)
	g.refuse = true
	h := harness.NewHome(t, harness.Unprivileged(t))
	dir := gated(h, g.Addr+"/base/busybox", "RUN wget -q -O /answer http://"+g.Addr+"/gate/never")
	start := time.Now()
	r := build(h, "-t", g.Addr+"/app", "--push", dir).Fails(t, 1, "403", "not yours")
	if strings.Contains(lastLines(r.Stderr)[0], "wget") || time.Since(start) > gateLimit {
		t.Errorf("the step was waited for: %v", r)
	}
}
