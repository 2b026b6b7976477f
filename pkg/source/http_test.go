package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
)

// noProxy keeps the tests from the proxies of the environment.
func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

func testOptions(t testing.TB) ContextOptions {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%d files are left in the temporary directory, such as %s", len(left), left[0].Name())
		}
	})
	return ContextOptions{
		TempDir: func(pattern string) (string, error) { return os.MkdirTemp(dir, pattern) },
		HTTP:    HTTPOptions{Proxy: noProxy, Backoff: time.Millisecond},
	}
}

func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func download(t testing.TB, u string, want digest.Digest, o ContextOptions) (string, error) {
	t.Helper()
	f, err := fetchHTTP(context.Background(), u, fetchPlan{want: want, dir: t.TempDir()}, o)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != f.Size || digest.FromBytes(data) != f.Digest {
		t.Errorf("size %d and digest %s are not those of %q", f.Size, f.Digest, data)
	}
	return string(data), nil
}

func TestRemoteFile(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/dated/f" {
			w.Header().Set("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
		}
		// A server does not name the file, let alone its place (SECURITY.md C2).
		w.Header().Set("Content-Disposition", `attachment; filename="../../etc/passwd"`)
		fmt.Fprint(w, "content")
	})
	for _, c := range []struct{ path, name string }{{"/f", "f"}, {"/dated/f", "f"}, {"/d/", "d"}, {"/", "__unnamed__"}, {"", "__unnamed__"},
		{"/a%20b?x=/y", "a b"}, {"/%2e%2e/f", "f"}} {
		ctx, name, err := OpenRemote(context.Background(), plan.Remote{URL: u + c.path}, testOptions(t))
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		e, err := ctx.Lstat(name)
		if err != nil || name != c.name || e.Mode != 0o600 || e.Size != 7 || e.UID != 0 {
			t.Errorf("%s: %s %+v %v", c.path, name, e, err)
		}
		want := time.Unix(0, 0)
		if c.path == "/dated/f" {
			want = time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC)
		}
		if !e.ModTime.Equal(want) {
			t.Errorf("%s: time %s, want %s", c.path, e.ModTime, want)
		}
		_ = ctx.Close()
	}
	for _, bad := range []string{"/..", "/%2e%2e", "/a%2f..", "/%00", "/a%0ab", "/" + strings.Repeat("x", 300)} {
		if ctx, name, err := OpenRemote(context.Background(), plan.Remote{URL: u + bad}, testOptions(t)); err == nil {
			t.Errorf("%s becomes a file %q", bad, name)
			_ = ctx.Close()
		}
	}
}

func TestC7Checksum(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "content") })
	for _, want := range []digest.Digest{digest.FromString("content"), digest.SHA512.FromString("content"), digest.SHA384.FromString("content")} {
		if got, err := download(t, u, want, testOptions(t)); err != nil || got != "content" {
			t.Errorf("%s: %q, %v", want, got, err)
		}
	}
	for _, want := range []digest.Digest{digest.FromString("other"), "md5:7e55db001d319a94b0b713529a756623", "sha256:xyz", "abc"} {
		if _, err := download(t, u, want, testOptions(t)); err == nil {
			t.Errorf("%s is accepted", want)
		}
	}
}

func TestC7Redirects(t *testing.T) {
	var u string
	u = serve(t, func(w http.ResponseWriter, r *http.Request) {
		var n int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &n); err == nil && n > 0 {
			http.Redirect(w, r, fmt.Sprintf("%s/%d", u, n-1), http.StatusFound)
			return
		}
		if r.URL.Path == "/loop" {
			http.Redirect(w, r, "/loop", http.StatusFound)
			return
		}
		if r.URL.Path == "/file" {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
			return
		}
		fmt.Fprint(w, "end")
	})
	if got, err := download(t, u+"/5", "", testOptions(t)); err != nil || got != "end" {
		t.Errorf("5 redirects: %q, %v", got, err)
	}
	for _, p := range []string{"/6", "/loop", "/file"} {
		if got, err := download(t, u+p, "", testOptions(t)); err == nil {
			t.Errorf("%s: %q", p, got)
		}
	}
}

func TestC7NoDowngrade(t *testing.T) {
	var hits atomic.Int32
	plainURL := serve(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plainURL, http.StatusFound)
	}))
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	o := testOptions(t)
	o.HTTP.TLS = &tls.Config{RootCAs: pool}
	o.HTTP.control = func(string, string, syscall.RawConn) error { return nil }
	if _, err := download(t, s.URL, "", o); err == nil || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("error %v", err)
	}
	if hits.Load() != 0 {
		t.Error("the plain server was asked")
	}
}

func TestC7Limits(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/endless":
			for {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/large":
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(make([]byte, 1000000))
		case "/stall":
			fmt.Fprint(w, "begin")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/silent":
			<-r.Context().Done()
		}
	})
	o := testOptions(t)
	o.HTTP.MaxBytes, o.HTTP.Idle = 100_000, 200*time.Millisecond
	for p, want := range map[string]string{"/endless": "more than the 100000", "/large": "1000000 bytes are more", "/stall": "stopped sending",
		"/silent": "timeout"} {
		if _, err := download(t, u+p, "", o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", p, err, want)
		}
	}
}

func TestHTTPRetries(t *testing.T) {
	var n atomic.Int32
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		k := n.Add(1)
		switch {
		case r.URL.Path == "/gone":
			http.Error(w, "gone", http.StatusNotFound)
		case r.URL.Path == "/down" || k == 1:
			http.Error(w, "later", http.StatusServiceUnavailable)
		case k == 2:
			w.Header().Set("Content-Length", "7")
			fmt.Fprint(w, "con") // cut short
		default:
			fmt.Fprint(w, "content")
		}
	})
	if got, err := download(t, u, "", testOptions(t)); err != nil || got != "content" {
		t.Errorf("after a 503 and a cut: %q, %v", got, err)
	}
	for p, tries := range map[string]int32{"/gone": 1, "/down": 3} {
		n.Store(0)
		if _, err := download(t, u+p, "", testOptions(t)); err == nil || n.Load() != tries {
			t.Errorf("%s: %d attempts, %v", p, n.Load(), err)
		}
	}
}

// SECURITY.md C6: where a server sends us, private addresses are refused, however they are written.
func TestC6RedirectToPrivateAddress(t *testing.T) {
	var hits atomic.Int32
	inner := serve(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	_, port, err := net.SplitHostPort(strings.TrimPrefix(inner, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"http://127.0.0.1:" + port, "http://localhost:" + port, "http://2130706433:" + port, "http://0x7f000001:" + port,
		"http://127.1:" + port, "http://0177.0.0.1:" + port, "http://0.0.0.0:" + port, "http://[::1]:" + port, "http://[::ffff:127.0.0.1]:" + port,
		"http://169.254.169.254/latest", "http://10.0.0.1:" + port, "http://[fe80::1]:" + port, "http://[::]:" + port} {
		// The server that redirects is private too, but it is named.
		u := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
		o := testOptions(t)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if f, err := fetchHTTP(ctx, u, fetchPlan{want: "", dir: t.TempDir()}, o); err == nil {
			_ = f.Close()
			t.Errorf("%s was fetched", to)
		}
		cancel()
	}
	if hits.Load() != 0 {
		t.Error("A PRIVATE SERVER THAT NOBODY NAMED WAS ASKED")
	}
}

func TestHTTPSecrets(t *testing.T) {
	var other string
	var seen, leaked atomic.Value
	seen.Store("")
	leaked.Store("")
	other = serve(t, func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(r.Header.Get("Authorization"))
		fmt.Fprint(w, "x")
	})
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization"))
		if r.URL.Path == "/away" {
			http.Redirect(w, r, other, http.StatusFound)
			return
		}
		fmt.Fprint(w, "x")
	})
	o := testOptions(t)
	o.HTTP.control = func(string, string, syscall.RawConn) error { return nil }
	o.Secret = func(id string) ([]byte, bool) { return []byte("TOKEN\n"), id == "HTTP_AUTH_TOKEN_127.0.0.1" }
	if _, err := download(t, u+"/away", "", o); err != nil {
		t.Fatal(err)
	}
	if seen.Load() != "Bearer TOKEN" || leaked.Load() != "" {
		t.Errorf("sent %q, and %q to another server", seen.Load(), leaked.Load())
	}
	if _, err := download(t, strings.Replace(u, "http://", "http://user:PASSWORD@", 1)+"/\x7f", "", o); err == nil || strings.Contains(err.Error(), "PASSWORD") {
		t.Errorf("error %v shows the password", err)
	}
	u404 := serve(t, http.NotFound)
	if _, err := download(t, strings.Replace(u404, "http://", "http://user:PASSWORD@", 1), "", o); err == nil || strings.Contains(err.Error(), "PASSWORD") {
		t.Errorf("error %v shows the password", err)
	}
}

// tarOf makes a tar archive of "name=content" files; "name->target" is a symlink, "name/" a directory.
func tarOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Uid: 7, Gid: 8, ModTime: time.Unix(1e9, 0)}
		if link, to, ok := strings.Cut(name, "->"); ok {
			h.Name, h.Linkname, h.Typeflag = link, to, tar.TypeSymlink
		} else if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHTTPContext(t *testing.T) {
	archive := tarOf(t, "Dockerfile=FROM scratch", "d/f=1", ".dockerignore=d", "other.df=FROM x")
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ctx.tar":
			_, _ = w.Write(archive)
		case "/ctx.tar.gz":
			_, _ = w.Write(gzipped(t, archive))
		default:
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "FROM alone\n")
		}
	})
	for _, p := range []string{"/ctx.tar", "/ctx.tar.gz"} {
		c, err := Open(context.Background(), u+p, "", testOptions(t))
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		// Ignore files do not apply to contexts that are fetched (as in BuildKit).
		if got := fmt.Sprint(names(t, c, ".")); got != "[.dockerignore Dockerfile d/ d/f other.df]" || string(c.Dockerfile) != "FROM scratch" {
			t.Errorf("%s: %s, Dockerfile %q", p, got, c.Dockerfile)
		}
		if !c.Time.Equal(time.Unix(1e9, 0)) {
			t.Errorf("%s: time %s", p, c.Time)
		}
		if e, err := c.Lstat("d/f"); err != nil || e.UID != 7 || e.GID != 8 {
			t.Errorf("%s: the owner of the archive is lost: %+v %v", p, e, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	c, err := Open(context.Background(), u+"/ctx.tar", "other.df", testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	if string(c.Dockerfile) != "FROM x" {
		t.Errorf("-f other.df reads %q", c.Dockerfile)
	}
	_ = c.Close()
	if c, err = Open(context.Background(), u+"/Dockerfile.txt", "", testOptions(t)); err != nil {
		t.Fatal(err)
	}
	if string(c.Dockerfile) != "FROM alone\n" {
		t.Errorf("the Dockerfile is %q", c.Dockerfile)
	}
	_ = c.Close()
}

func TestStdinContext(t *testing.T) {
	ctx := context.Background()
	archive := tarOf(t, "./", "Dockerfile=FROM scratch", "d/f=1")
	for name, data := range map[string][]byte{"plain": archive, "gzip": gzipped(t, archive)} {
		o := testOptions(t)
		o.Stdin = bytes.NewReader(data)
		c, err := Open(ctx, "-", "", o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f, err := c.Open("d/f")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(f); string(got) != "1" || string(c.Dockerfile) != "FROM scratch" {
			t.Errorf("%s: %q, Dockerfile %q", name, got, c.Dockerfile)
		}
		_ = f.Close()
		_ = c.Close()
	}
	o := testOptions(t)
	o.Stdin = strings.NewReader("FROM alone")
	c, err := Open(ctx, "-", "", o)
	if err != nil || string(c.Dockerfile) != "FROM alone" || len(names(t, c, ".")) != 0 {
		t.Errorf("a Dockerfile alone: %v, %v", c, err)
	}
	for name, try := range map[string]func(o ContextOptions) (*Context, error){
		"both": func(o ContextOptions) (*Context, error) { return Open(ctx, "-", "-", o) },
		"two Dockerfiles": func(o ContextOptions) (*Context, error) {
			o.Stdin = strings.NewReader("FROM alone")
			return Open(ctx, "-", "x", o)
		},
		"nothing": func(o ContextOptions) (*Context, error) {
			o.Stdin = strings.NewReader("")
			return Open(ctx, "-", "", o)
		},
		"none": func(o ContextOptions) (*Context, error) { o.Stdin = nil; return Open(ctx, "-", "", o) },
		"no Dockerfile": func(o ContextOptions) (*Context, error) {
			o.Stdin = bytes.NewReader(tarOf(t, "x=1"))
			return Open(ctx, "-", "", o)
		},
		"cut": func(o ContextOptions) (*Context, error) {
			o.Stdin = bytes.NewReader(tarOf(t, "x="+strings.Repeat("y", 9999))[:5000])
			return Open(ctx, "-", "", o)
		},
	} {
		if _, err := try(testOptions(t)); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

// SECURITY.md C1: no archive that is a context touches the host.
func TestC1HostileTarContext(t *testing.T) {
	top := t.TempDir()
	write(t, top, "canary=untouched")
	before, err := os.Stat(filepath.Join(top, "canary"))
	if err != nil {
		t.Fatal(err)
	}
	canary := filepath.Join(top, "canary")
	for name, files := range map[string][]string{
		"Dockerfile is a symlink out":   {"Dockerfile->" + canary},
		"Dockerfile through a symlink":  {"d->" + top, "d/canary=PWNED", "Dockerfile->d/canary"},
		"absolute":                      {canary + "=PWNED", "Dockerfile=FROM scratch"},
		"dotdot":                        {strings.Repeat("../", 30) + strings.TrimPrefix(canary, "/") + "=PWNED", "Dockerfile=FROM scratch"},
		"symlink then write through it": {"x->" + top, "x/canary=PWNED", "Dockerfile=FROM scratch"},
		"symlink replaced by directory": {"x->" + top, "x/", "x/canary=PWNED", "Dockerfile=FROM scratch"},
	} {
		o := testOptions(t)
		o.Stdin = bytes.NewReader(tarOf(t, files...))
		c, err := Open(context.Background(), "-", "", o)
		if err == nil {
			if strings.Contains(string(c.Dockerfile), "untouched") {
				t.Errorf("%s: HOST FILE WAS READ", name)
			}
			_ = c.Close()
		}
		after, err := os.Stat(canary)
		if err != nil || !os.SameFile(before, after) || after.ModTime() != before.ModTime() || after.Size() != before.Size() {
			t.Errorf("%s: HOST FILE WAS CHANGED", name)
		}
		if left, _ := os.ReadDir(top); len(left) != 1 {
			t.Errorf("%s: HOST DIRECTORY WAS WRITTEN TO", name)
		}
	}
}

func TestTarContextLimits(t *testing.T) {
	o := testOptions(t)
	o.Limits.Bytes = 4096
	o.Stdin = bytes.NewReader(gzipped(t, tarOf(t, "Dockerfile="+strings.Repeat("x", 1<<20))))
	if _, err := Open(context.Background(), "-", "", o); err == nil || !strings.Contains(err.Error(), "more bytes than allowed") {
		t.Errorf("error %v", err)
	}
}

func TestFetchIsCancelled(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := fetchHTTP(ctx, u, fetchPlan{want: "", dir: t.TempDir()}, testOptions(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A file that has not changed is not fetched again; one that has is.
func TestHTTPKeptFile(t *testing.T) {
	var etag, content, modified atomic.Value
	var full, asked atomic.Int32
	etag.Store(`"1"`)
	content.Store("one")
	modified.Store("")
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if m := modified.Load().(string); m != "" {
			w.Header().Set("Last-Modified", m)
			if r.Header.Get("If-Modified-Since") == m {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		if e := etag.Load().(string); e != "" {
			w.Header().Set("ETag", e)
			if r.Header.Get("If-None-Match") == e {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		full.Add(1)
		fmt.Fprint(w, content.Load())
	})
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	get := func(checksum string) string {
		t.Helper()
		o := testOptions(t)
		o.Store = s
		c, name, err := OpenRemote(context.Background(), plan.Remote{URL: u + "/f", Checksum: checksum}, o)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		f, err := c.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.Digest(t.Context(), name)
		if err != nil || d != digest.FromBytes(data) {
			t.Errorf("digest %s, %v", d, err)
		}
		return string(data)
	}
	for i, step := range []struct {
		change            func()
		checksum, want    string
		wantAsk, wantFull int32
	}{
		{func() {}, "", "one", 1, 1},
		{func() {}, "", "one", 2, 1},
		{func() { etag.Store(`"2"`); content.Store("two") }, "", "two", 3, 2},
		{func() {}, digest.FromString("two").String(), "two", 3, 2}, // known by its digest
		{func() {}, digest.FromString("one").String(), "digest mismatch", 4, 3},
		{func() { etag.Store(""); modified.Store("Wed, 21 Oct 2015 07:28:00 GMT") }, "", "two", 5, 4},
		{func() {}, "", "two", 6, 4},
	} {
		step.change()
		if got := get(step.checksum); !strings.Contains(got, step.want) || asked.Load() != step.wantAsk || full.Load() != step.wantFull {
			t.Errorf("step %d: %q after %d requests, %d of them full; want %q, %d, %d", i, got, asked.Load(), full.Load(), step.want,
				step.wantAsk, step.wantFull)
		}
	}
}
