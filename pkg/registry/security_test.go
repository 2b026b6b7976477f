package registry_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/opencontainers/go-digest"
)

const secretUser, secretPassword = "mallet", "correct-horse-battery"

// authFile writes a config.json with the secret for a registry.
func authFile(t *testing.T, keys ...string) string {
	t.Helper()
	var entries []string
	for _, k := range keys {
		entries = append(entries, fmt.Sprintf("%q:{\"auth\":%q}", k, base64.StdEncoding.EncodeToString([]byte(secretUser+":"+secretPassword))))
	}
	return writeFile(t, `{"auths":{`+strings.Join(entries, ",")+`}}`)
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// stranger is a server that notes what it is sent.
type stranger struct {
	*httptest.Server
	seen   bytes.Buffer
	answer http.HandlerFunc
}

func newStranger(t *testing.T, answer http.HandlerFunc) *stranger {
	s := &stranger{answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(&s.seen, "%s %s\n", r.Method, r.URL)
		_ = r.Header.Write(&s.seen)
		_, _ = io.Copy(&s.seen, r.Body)
		s.answer(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s
}

// gotSecret looks for the password in every form it could have been sent.
func (s *stranger) gotSecret() bool {
	all := s.seen.String()
	return strings.Contains(all, secretPassword) || strings.Contains(all, "Authorization") ||
		strings.Contains(all, base64.StdEncoding.EncodeToString([]byte(secretUser+":"+secretPassword)))
}

// TestForeignRealm: a token server on another host gets no credentials (CVE-2020-15157).
func TestForeignRealm(t *testing.T) {
	token := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"tok"}`) }
	st := newStranger(t, token)
	_, strangerPort, _ := strings.Cut(st.Listener.Addr().String(), ":")
	realm := "http://localhost:" + strangerPort + "/token"
	f := newFake(t)
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="x"`)
		w.WriteHeader(401)
		return true
	})
	file := authFile(t, f.host())
	_, _, err := newClient(t, registry.Options{AuthFiles: []string{file}}).Resolve(t.Context(), f.host()+"/a")
	if err == nil || st.seen.Len() != 0 {
		t.Errorf("the token server of another host on this machine was asked: %v\n%s", err, &st.seen)
	}
	_, _, err = newClient(t, registry.Options{AuthFiles: []string{file}, DialControl: allowLoopback}).Resolve(t.Context(), f.host()+"/a")
	if err == nil || st.seen.Len() == 0 || st.gotSecret() {
		t.Errorf("err %v; the stranger saw:\n%s", err, &st.seen)
	}
	st.seen.Reset()
	opts := registry.Options{AuthFiles: []string{file}, AllowHosts: []string{"localhost"}, Realms: []string{"localhost"}}
	_, _, err = newClient(t, opts).Resolve(t.Context(), f.host()+"/a")
	if !st.gotSecret() {
		t.Errorf("a token server that the user listed got no credentials: %v", err)
	}
}

// TestRedirectDropsCredentials: another host, and another port of the same host, see no Authorization header.
func TestRedirectDropsCredentials(t *testing.T) {
	img := newImage(10_000)
	for _, code := range []int{301, 302, 303, 307, 308} {
		f := newFake(t)
		st := newStranger(t, func(w http.ResponseWriter, r *http.Request) { f.handler.ServeHTTP(w, r) })
		repo := f.host() + "/a"
		if err := push(t.Context(), newClient(t, registry.Options{}), repo, "latest", img); err != nil {
			t.Fatal(err)
		}
		basic := 0
		f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if _, pw, ok := r.BasicAuth(); !ok || pw != secretPassword {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return true
			}
			basic++
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, st.URL+r.URL.Path, code)
				return true
			}
			return false
		})
		file := authFile(t, f.host())
		c := newClient(t, registry.Options{AuthFiles: []string{file}, DialControl: allowLoopback})
		if err := pull(t.Context(), c, repo, "latest", img); err != nil {
			t.Fatal(err)
		}
		if basic == 0 || st.seen.Len() == 0 || st.gotSecret() || strings.Contains(st.seen.String(), "Referer") {
			t.Errorf("%d: %d requests with credentials; the other host saw:\n%s", code, basic, &st.seen)
		}
		// Without the exception for tests the hop is refused where it is dialled.
		err := pull(t.Context(), newClient(t, registry.Options{AuthFiles: []string{file}}), repo, "latest", img)
		if err == nil || !strings.Contains(err.Error(), "private address") {
			t.Errorf("a redirect to loopback that nobody named was followed: %v", err)
		}
		c = newClient(t, registry.Options{AuthFiles: []string{file}, AllowHosts: []string{st.Listener.Addr().String()}})
		if err := pull(t.Context(), c, repo, "latest", img); err != nil {
			t.Errorf("a redirect to a host that was allowed: %v", err)
		}
	}
}

// TestRedirectElsewhere: loops, and other protocols.
func TestRedirectElsewhere(t *testing.T) {
	for _, to := range []string{"/v2/a/manifests/latest", "http://registry.example/x", "ftp://registry.example/x", "file:///etc/passwd", "http://[::1"} {
		f := newFake(t)
		f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Location", to)
				w.WriteHeader(307)
				return true
			}
			return false
		})
		_, _, err := newClient(t, registry.Options{}).Resolve(t.Context(), f.host()+"/a")
		if n := f.count("GET /v2/a/"); err == nil || n > 6 {
			t.Errorf("%s: %d requests, %v", to, n, err)
		}
	}
}

// TestUploadLocation: the upload goes where the registry says, without credentials if that is elsewhere, and not to private addresses.
func TestUploadLocation(t *testing.T) {
	img := newImage(10_000)
	f := newFake(t)
	st := newStranger(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) })
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if _, pw, ok := r.BasicAuth(); !ok || pw != secretPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
			return true
		}
		if r.Method == "POST" {
			w.Header().Set("Location", st.URL+"/put?sig=a%2Fb")
			w.WriteHeader(202)
			return true
		}
		return false
	})
	up := registry.Upload{Open: opener(img.layer)}
	opts := registry.Options{AuthFiles: []string{authFile(t, f.host())}}
	if err := newClient(t, opts).PushBlob(t.Context(), f.host()+"/a", img.layerD, up); err == nil || st.seen.Len() > 0 {
		t.Errorf("uploaded to loopback: %v", err)
	}
	opts.DialControl = allowLoopback
	if err := newClient(t, opts).PushBlob(t.Context(), f.host()+"/a", img.layerD, up); err != nil {
		t.Fatal(err)
	}
	if st.gotSecret() || !strings.HasPrefix(st.seen.String(), "PUT /put?sig=a%2Fb&digest=") {
		t.Errorf("the stranger saw %.300s", &st.seen)
	}
}

// TestRefusePrivate lists spellings of addresses as the dialler sees them.
func TestRefusePrivate(t *testing.T) {
	for _, a := range []string{
		"127.0.0.1:80", "127.255.1.1:80", "[::1]:80", "10.0.0.1:80", "172.16.0.1:80", "192.168.1.1:80", "169.254.169.254:80",
		"[fe80::1%eth0]:80", "[fd00:ec2::254]:80", "[::ffff:127.0.0.1]:80", "[::ffff:a9fe:a9fe]:80", "0.0.0.0:80", "[::]:80",
		"100.64.0.1:80", "224.0.0.1:80", "[64:ff9b::7f00:1]:80", "nonsense",
	} {
		if registry.RefusePrivate("tcp", a, nil) == nil {
			t.Errorf("%s was let through", a)
		}
	}
	for _, a := range []string{"8.8.8.8:443", "[2606:4700::1111]:443", "172.32.0.1:80", "100.128.0.1:1"} {
		if err := registry.RefusePrivate("tcp", a, nil); err != nil {
			t.Error(err)
		}
	}
}

// TestNoPlainHTTP: a host that is neither loopback nor called insecure is never spoken to in plain HTTP, whatever kind of name it has.
// The proxy sees what is tried.
func TestNoPlainHTTP(t *testing.T) {
	f := newFake(t)
	proxy, err := url.Parse(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	through := func(*http.Request) (*url.URL, error) { return proxy, nil }
	for _, host := range []string{"registry.localhost:5000", "10.9.8.7:5000", "192.168.1.1", "registry.local", "registry.example:80", "registry.example"} {
		f.setFault(nil)
		_, _, err := newClient(t, registry.Options{Proxy: through}).Resolve(t.Context(), host+"/a")
		if err == nil || f.count("GET") > 0 || f.count("CONNECT") == 0 {
			t.Errorf("%s: %v %q", host, err, f.log)
		}
		f.setFault(nil)
		_, _, err = newClient(t, registry.Options{Proxy: through, InsecureHosts: []string{host}}).Resolve(t.Context(), host+"/a")
		if err == nil || f.count("GET") == 0 {
			t.Errorf("%s, insecure: %v %q", host, err, f.log)
		}
	}
}

// TestOversized: documents beyond their limits are refused without being read whole.
func TestOversized(t *testing.T) {
	img := newImage(1000)
	f := newFake(t)
	repo := f.host() + "/a"
	if err := push(t.Context(), newClient(t, registry.Options{}), repo, "latest", img); err != nil {
		t.Fatal(err)
	}
	for _, chunked := range []bool{false, true} {
		f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", img.manifestD.MediaType)
			if !chunked {
				w.Header().Set("Content-Length", fmt.Sprint(64<<20))
			}
			for range 64 {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					break
				}
			}
			return true
		})
		_, _, err := newClient(t, registry.Options{}).Resolve(t.Context(), repo)
		if err == nil || !strings.Contains(err.Error(), "larger than") {
			t.Error(err)
		}
	}
	big := img.configDesc
	big.Size = registry.MaxConfig + 1
	if _, err := newClient(t, registry.Options{}).FetchSmall(t.Context(), repo, big, registry.MaxConfig); err == nil {
		t.Error("a config of more than the limit was accepted")
	}
}

// TestHostileDigests: what is no digest never becomes part of a URL.
func TestHostileDigests(t *testing.T) {
	f := newFake(t)
	c := newClient(t, registry.Options{})
	for _, d := range []string{
		"", "sha256:", "sha256:../../../etc/passwd", "sha256:" + strings.Repeat("g", 64), "sha256:" + strings.Repeat("a", 63), "sha1:" + strings.Repeat("a", 40),
		"md5:" + strings.Repeat("a", 32), "SHA256:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("A", 64), "sha256:" + strings.Repeat("a", 64) + "/../x",
	} {
		desc := newImage(10).layerD
		desc.Digest = digest.Digest(d)
		if _, err := c.FetchBlob(t.Context(), f.host()+"/a", desc); err == nil {
			t.Errorf("fetched %q", d)
		}
		if err := c.PushBlob(t.Context(), f.host()+"/a", desc, registry.Upload{Open: opener(nil)}); err == nil {
			t.Errorf("pushed %q", d)
		}
	}
	for _, repo := range []string{"", "a:tag", "../a", f.host() + "/../a", f.host() + "/A", "host/a@sha256:" + strings.Repeat("a", 64), "http://x/a"} {
		if _, err := c.FetchBlob(t.Context(), repo, newImage(10).layerD); err == nil {
			t.Errorf("fetched from %q", repo)
		}
	}
	if n := f.count(""); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

func TestCheckManifest(t *testing.T) {
	const oci, index, docker = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.v2+json"
	for _, tt := range []struct{ as, body, want string }{
		{oci, `{"schemaVersion":2,"mediaType":"` + oci + `","config":{},"layers":[]}`, oci},
		{oci, `{"schemaVersion":2,"config":{},"layers":[]}`, oci},
		{"", `{"schemaVersion":2,"config":{},"layers":[]}`, oci},
		{"", `{"schemaVersion":2,"manifests":[]}`, index},
		{index, `{"schemaVersion":2,"manifests":[]}`, index},
		{"application/json", `{"schemaVersion":2,"mediaType":"` + docker + `","config":{},"layers":[]}`, docker},
		{docker, `{"schemaVersion":2,"mediaType":"` + docker + `","config":{},"layers":[]}`, docker},
		{oci, `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`, ""},
		{index, `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`, ""},
		{index, `{"schemaVersion":2,"layers":[],"Manifests":[]}`, ""},
		{index, `{"schemaVersion":2,"mediaType":"` + oci + `","config":{},"layers":[]}`, ""},
		{oci, `{"schemaVersion":2,"mediaType":"` + index + `","manifests":[]}`, ""},
		{oci, `{"schemaVersion":2,"mediaType":"text/html","config":{},"layers":[]}`, ""},
		{"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, ""},
		{oci, `{"schemaVersion":1,"config":{},"layers":[]}`, ""},
		{oci, `{"schemaVersion":3,"config":{},"layers":[]}`, ""},
		{oci, `{}`, ""},
		{oci, `[]`, ""},
		{oci, `<html>`, ""},
		{oci, ``, ""},
		{"text/html", `{"schemaVersion":2,"mediaType":"text/html"}`, ""},
	} {
		got, err := registry.CheckManifest(tt.as, []byte(tt.body))
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s %s: %q, %v", tt.as, tt.body, got, err)
		}
	}
}
