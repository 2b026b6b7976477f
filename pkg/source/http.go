package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/opencontainers/go-digest"
)

const (
	maxRedirects   = 5
	defaultFetched = 20 << 30
	defaultIdle    = time.Minute
	attempts       = 3
)

// HTTPOptions say how URLs are fetched.
type HTTPOptions struct {
	// Proxy chooses a request's proxy; nil is http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// UserAgent is sent with every request. "" is "cairn".
	UserAgent string
	// MaxBytes is the most that one URL may bring; 0 is 20 GiB. Idle is how long nothing may come; 0 is a minute.
	MaxBytes int64
	Idle     time.Duration
	// Backoff is waited before the second attempt, and twice that before the third; 0 is a second.
	Backoff time.Duration
	// TLS is nil for the system's certificates.
	TLS *tls.Config

	control func(network, address string, c syscall.RawConn) error // for tests; nil is registry.RefusePrivate
}

// Fetched is a file that was fetched, and what its server said of it.
type Fetched struct {
	*os.File
	Size   int64
	Digest digest.Digest // SHA-256
	// LastModified is the Unix epoch where the server did not say.
	LastModified time.Time
	ETag         string
	modified     string // LastModified as the server wrote it
}

// fetchPlan is what is known of a fetch beforehand: the digest it must have, where it goes, and what an earlier one brought.
type fetchPlan struct {
	want digest.Digest
	dir  string
	kept *keptFile
}

var errNotModified = errors.New("not modified")

// fetchHTTP fetches a URL into a file without a name in p.dir. It follows up to 5 redirects, none of them from https to http, and
// none to a private address that the URL itself does not name. p.want, where it is not empty, is verified before the file is
// returned; its algorithm is one of SHA-256, -384 and -512. Failures that may pass are tried again.
func fetchHTTP(ctx context.Context, rawURL string, p fetchPlan, o ContextOptions) (*Fetched, error) {
	want := p.want
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%s is no http URL", redact(rawURL))
	}
	if want != "" {
		if err := want.Validate(); err != nil {
			return nil, fmt.Errorf("checksum %q: %w", want, err)
		}
	}
	f := &fetcher{o: o, named: map[string]bool{hostPort(u): true}, fetchPlan: p}
	client := &http.Client{Transport: f.transport(), CheckRedirect: checkRedirect}
	defer client.CloseIdleConnections()
	wait := o.HTTP.Backoff
	if wait == 0 {
		wait = time.Second
	}
	for n := 1; ; n++ {
		got, again, err := f.once(ctx, client, u)
		if err == nil {
			return got, nil
		}
		err = fmt.Errorf("fetching %s: %w", redact(rawURL), unwrapURL(err))
		if !again || n == attempts || ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait << (n - 1)):
		}
	}
}

// unwrapURL drops the URL that net/http puts into its errors: it may be that of a redirect, with a signature in it.
func unwrapURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// fetcher fetches one URL.
type fetcher struct {
	o ContextOptions
	fetchPlan

	mu    sync.Mutex
	named map[string]bool // "host:port" of hosts that the user named
}

func (f *fetcher) transport() http.RoundTripper {
	return &http.Transport{
		Proxy:                 f.proxy,
		TLSClientConfig:       f.o.HTTP.TLS.Clone(),
		DialContext:           f.dial,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: f.idle(),
		ForceAttemptHTTP2:     true,
		// The file is what the server has, not what an encoding in between makes of it.
		DisableCompression: true,
	}
}

func (f *fetcher) idle() time.Duration {
	if f.o.HTTP.Idle > 0 {
		return f.o.HTTP.Idle
	}
	return defaultIdle
}

// proxy returns the proxy of a request. It is a host the user named, and it looks names up itself; so of the hosts nobody named
// only those written as a private address can be refused here.
func (f *fetcher) proxy(req *http.Request) (*url.URL, error) {
	choose := f.o.HTTP.Proxy
	if choose == nil {
		choose = http.ProxyFromEnvironment
	}
	p, err := choose(req)
	if err != nil || p == nil {
		return p, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil && !f.named[hostPort(req.URL)] {
		if err := f.control("tcp", netip.AddrPortFrom(ip, 0).String(), nil); err != nil {
			return nil, err
		}
	}
	f.named[hostPort(p)] = true
	return p, nil
}

func (f *fetcher) control(network, address string, c syscall.RawConn) error {
	if f.o.HTTP.control != nil {
		return f.o.HTTP.control(network, address, c)
	}
	return registry.RefusePrivate(network, address, c)
}

// dial connects. The policy sees the address after the name was looked up, so that no spelling and no DNS answer gets around it.
func (f *fetcher) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	f.mu.Lock()
	named := f.named[strings.ToLower(addr)]
	f.mu.Unlock()
	if !named {
		d.Control = f.control
	}
	return d.DialContext(ctx, network, addr)
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return strings.ToLower(net.JoinHostPort(u.Hostname(), port))
}

// checkRedirect is for http.Client.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("refusing a redirect from https to " + req.URL.Scheme)
	}
	if req.URL.Scheme != via[0].URL.Scheme || hostPort(req.URL) != hostPort(via[0].URL) {
		req.Header.Del("Authorization")
	}
	req.Header.Del("Referer")
	return nil
}

// once makes one attempt; again says that another may do better.
func (f *fetcher) once(ctx context.Context, client *http.Client, u *url.URL) (_ *Fetched, again bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, false, err
	}
	agent := f.o.HTTP.UserAgent
	if agent == "" {
		agent = "cairn"
	}
	req.Header.Set("User-Agent", agent)
	f.authorize(req)
	f.kept.ask(req)
	resp, err := client.Do(req)
	if err != nil {
		return nil, transient(err), err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && f.kept != nil {
		return nil, false, errNotModified
	}
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the server answers %s", resp.Status)
	}
	file, err := os.CreateTemp(f.dir, "fetch-")
	if err != nil {
		return nil, false, err
	}
	_ = os.Remove(file.Name())
	got := &Fetched{File: file, LastModified: time.Unix(0, 0), ETag: resp.Header.Get("ETag"), modified: resp.Header.Get("Last-Modified")}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		got.LastModified = t
	}
	stalled := errors.New("the server stopped sending")
	watch := time.AfterFunc(f.idle(), func() { cancel(stalled) })
	defer watch.Stop()
	again, err = f.receive(got, &watched{resp.Body, watch, f.idle()}, resp.ContentLength)
	if err != nil {
		_ = file.Close()
		if cause := context.Cause(ctx); errors.Is(cause, stalled) {
			err = cause
		}
		return nil, again, err
	}
	return got, false, nil
}

// authorize adds the secret for the host, named as BuildKit names it (docs, ADD: private resources).
func (f *fetcher) authorize(req *http.Request) {
	if f.o.Secret == nil {
		return
	}
	host := req.URL.Hostname()
	if v, ok := f.o.Secret("HTTP_AUTH_HEADER_" + host); ok {
		req.Header.Set("Authorization", strings.TrimSpace(string(v)))
	} else if v, ok := f.o.Secret("HTTP_AUTH_TOKEN_" + host); ok {
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(v)))
	}
}

// receive writes a body to the file and verifies it.
func (f *fetcher) receive(got *Fetched, body io.Reader, length int64) (again bool, err error) {
	limit := f.o.HTTP.MaxBytes
	if limit == 0 {
		limit = defaultFetched
	}
	if length > limit {
		return false, fmt.Errorf("%d bytes are more than the %d allowed", length, limit)
	}
	sum := digest.Canonical.Digester()
	w := io.MultiWriter(got.File, sum.Hash())
	check := sum
	if f.want != "" && f.want.Algorithm() != digest.Canonical {
		check = f.want.Algorithm().Digester()
		w = io.MultiWriter(w, check.Hash())
	}
	n, err := io.Copy(w, io.LimitReader(body, limit+1))
	if err != nil {
		return transient(err), err
	}
	if n > limit {
		return false, fmt.Errorf("more than the %d bytes allowed", limit)
	}
	if f.want != "" && check.Digest() != f.want {
		return false, fmt.Errorf("digest mismatch: it is %s, expected %s", check.Digest(), f.want)
	}
	got.Size, got.Digest = n, sum.Digest()
	_, err = got.Seek(0, io.SeekStart)
	return false, err
}

// transient reports whether an error of the network may pass.
func transient(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return errors.Is(err, syscall.ECONNREFUSED) || op.Timeout()
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// watched puts a timer off whenever something comes.
type watched struct {
	io.Reader
	timer *time.Timer
	idle  time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.timer.Reset(w.idle)
	}
	return n, err
}

// fileName is the name that a URL's file gets (BuildKit: the last component of the path). Only a plain name will do.
func fileName(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("%s is no URL", redact(rawURL))
	}
	base := path.Base(u.Path)
	switch {
	case base == "." || base == "/":
		return "__unnamed__", nil
	case base == "..", hasControl(base), len(base) > 255, strings.Contains(base, "/"):
		return "", fmt.Errorf("%q, the end of %s, cannot be the name of a file", base, u.Redacted())
	}
	return base, nil
}

// openHTTPFile is ADD of a URL: one file with mode 0600 and the time the server says.
func openHTTPFile(ctx context.Context, r plan.Remote, o ContextOptions) (*Context, string, error) {
	name, err := fileName(r.URL)
	if err != nil {
		return nil, "", err
	}
	c, err := fetchTree(ctx, r.URL, digest.Digest(r.Checksum), name, o)
	return c, name, err
}

// fetchTree fetches a URL as a tree with one file.
func fetchTree(ctx context.Context, rawURL string, want digest.Digest, name string, o ContextOptions) (*Context, error) {
	dir, remove, err := o.tempDir("fetch-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = remove() }()
	kept := o.keptFile(rawURL)
	if kept != nil && want != "" {
		if kept.Digest == want {
			return kept.tree(name, o), nil // what the server has now does not matter
		}
		kept = nil // that the server has this one still does not help
	}
	f, err := fetchHTTP(ctx, rawURL, fetchPlan{want: want, dir: dir, kept: kept}, o)
	if errors.Is(err, errNotModified) {
		return kept.tree(name, o), nil
	}
	if err != nil {
		return nil, err
	}
	if err := o.keep(ctx, rawURL, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	file := f.item(name)
	return &Context{Tree: fileTree{&file}, Time: f.LastModified, close: []func() error{f.Close}}, nil
}

func (f *Fetched) item(name string) layer.Item {
	return layer.Item{
		Entry: layer.Entry{Path: name, Type: layer.File, Mode: 0o600, Size: f.Size, ModTime: f.LastModified, Sum: layer.SumOf(f.Digest)},
		Open:  func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(f.File, 0, f.Size)), nil },
	}
}

// openHTTPContext is a context at a URL: an archive, or one file, which is then the Dockerfile.
func openHTTPContext(ctx context.Context, rawURL string, o ContextOptions) (_ *Context, isFile bool, err error) {
	c, err := fetchTree(ctx, rawURL, "", contextFile, o)
	if err != nil {
		return nil, false, err
	}
	f, err := c.Open(contextFile)
	if err != nil {
		return nil, false, errors.Join(err, c.Close())
	}
	defer f.Close()
	head := make([]byte, headSize)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, false, errors.Join(err, c.Close())
	}
	if !looksLikeArchive(head[:n]) {
		return c, true, nil
	}
	whole, err := c.Open(contextFile)
	if err != nil {
		return nil, false, errors.Join(err, c.Close())
	}
	defer whole.Close()
	a, err := OpenTar(ctx, whole, o)
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("reading the archive at %s: %w", redact(rawURL), err), c.Close())
	}
	if modified := c.Time; modified.Unix() != 0 {
		a.Time = modified
	}
	return a, false, c.Close()
}
