package harness

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Credentials that a registry with authentication takes. htpasswd is the line of its password file, hashed with bcrypt.
const (
	Username = "ann"
	Password = "correct-horse"
	htpasswd = "ann:$2b$05$BGZmcPs1noNc7brSn8e82etLUmcJk99nKghS5ZHI61DbrPbTWKfp6"
)

// RegistryOptions say what kind of registry to start.
type RegistryOptions struct {
	// Auth asks for Username and Password.
	Auth bool
	// TLS serves HTTPS with a certificate of a private authority.
	TLS bool
}

// Registry is Debian's docker-registry on a free port of the loopback interface.
type Registry struct {
	// Addr is host:port.
	Addr string
	// CA is the file of the authority's certificate, with TLS.
	CA   string
	auth bool
	tls  bool
}

// StartRegistry starts a registry that lives until the end of the test.
func StartRegistry(t testing.TB, o RegistryOptions) *Registry {
	t.Helper()
	dir, err := os.MkdirTemp("", "cairn-registry-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &Registry{Addr: freeAddr(t), auth: o.Auth, tls: o.TLS}
	var c strings.Builder
	fmt.Fprintf(&c, "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n")
	fmt.Fprintf(&c, "storage:\n  filesystem: {rootdirectory: %s/data}\n  delete: {enabled: true}\n", dir)
	fmt.Fprintf(&c, "http:\n  addr: %s\n", r.Addr)
	if o.TLS {
		r.CA = filepath.Join(dir, "ca.pem")
		makeCertificates(t, dir)
		fmt.Fprintf(&c, "  tls: {certificate: %s/server.pem, key: %s/server.key}\n", dir, dir)
	}
	if o.Auth {
		WriteFiles(t, dir, map[string]string{"htpasswd": htpasswd + "\n"})
		fmt.Fprintf(&c, "auth:\n  htpasswd: {realm: test, path: %s/htpasswd}\n", dir)
	}
	WriteFiles(t, dir, map[string]string{"config.yml": c.String()})
	// Not in memory: a registry is beside tests that measure their own.
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	background(t, log, "docker-registry", "serve", filepath.Join(dir, "config.yml"))
	client := r.client(t)
	WaitFor(t, 20*time.Second, "docker-registry answers", func() bool {
		resp, err := client.Get(r.url() + "/v2/")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return true
	})
	return r
}

// Name is the name of a repository in the registry.
func (r *Registry) Name(repository string) string { return r.Addr + "/" + repository }

// Skopeo are the flags with which skopeo reaches the registry as a source ("src") or destination ("dest").
func (r *Registry) Skopeo(side string) []string {
	if side != "" {
		side += "-"
	}
	flags := []string{"--" + side + "tls-verify=false"}
	if r.auth {
		flags = append(flags, "--"+side+"creds="+Username+":"+Password)
	}
	return flags
}

// DockerConfig is the content of a config.json that logs in to the registry.
func (r *Registry) DockerConfig() string {
	return fmt.Sprintf(`{"auths": {%q: {"username": %q, "password": %q}}}`, r.Addr, Username, Password)
}

func (r *Registry) url() string {
	if r.tls {
		return "https://" + r.Addr
	}
	return "http://" + r.Addr
}

func (r *Registry) client(t testing.TB) *http.Client {
	if !r.tls {
		return http.DefaultClient
	}
	pem, err := os.ReadFile(r.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

// freeAddr is an address of the loopback interface that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// makeCertificates makes an authority (ca.pem) and a certificate of it for 127.0.0.1 (server.pem, server.key).
func makeCertificates(t testing.TB, dir string) {
	t.Helper()
	f := func(name string) string { return filepath.Join(dir, name) }
	WriteFiles(t, dir, map[string]string{"ext": "subjectAltName=IP:127.0.0.1,DNS:localhost\n"})
	Run(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
		"-subj", "/CN=test authority", "-keyout", f("ca.key"), "-out", f("ca.pem"))
	Run(t, "openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-subj", "/CN=test registry", "-keyout", f("server.key"), "-out", f("server.csr"))
	Run(t, "openssl", "x509", "-req", "-days", "2", "-in", f("server.csr"), "-CA", f("ca.pem"), "-CAkey", f("ca.key"), "-CAcreateserial",
		"-extfile", f("ext"), "-out", f("server.pem"))
	if err := os.Chmod(f("ca.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Counter stands before a registry and remembers what was asked of it.
type Counter struct {
	// Addr is host:port of the counter; names in it reach the registry behind.
	Addr string
	mu   sync.Mutex
	log  []Request
}

// Request is one request as the registry answered it.
type Request struct {
	Method, Path, Query string
	Status              int
	// Sent and Received are bytes of the bodies, from the client's side.
	Sent, Received int64
}

func (r Request) String() string {
	return fmt.Sprintf("%s %s?%s → %d (%d up, %d down)", r.Method, r.Path, r.Query, r.Status, r.Sent, r.Received)
}

// Count starts a counter before a registry without TLS.
func (r *Registry) Count(t testing.TB) *Counter {
	t.Helper()
	target, err := url.Parse(r.url())
	if err != nil {
		t.Fatal(err)
	}
	c := &Counter{}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(target)
		p.Out.Host = p.In.Host // upload locations are made of it
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		cw := &countingWriter{ResponseWriter: w, status: http.StatusOK}
		body := &countingBody{ReadCloser: req.Body}
		req.Body = body
		proxy.ServeHTTP(cw, req)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.log = append(c.log, Request{
			Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery, Status: cw.status, Sent: body.n, Received: cw.n,
		})
	}))
	t.Cleanup(server.Close)
	c.Addr = strings.TrimPrefix(server.URL, "http://")
	return c
}

// Take returns the requests since the last call.
func (c *Counter) Take() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	log := c.log
	c.log = nil
	return log
}

type countingWriter struct {
	http.ResponseWriter
	status int
	n      int64
}

func (w *countingWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

type countingBody struct {
	io.ReadCloser
	n int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}
