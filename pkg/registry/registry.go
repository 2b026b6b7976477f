// Package registry speaks the OCI distribution protocol: it resolves references, and moves blobs and manifests from and to
// registries. go-containerregistry supplies names, the ping, the token exchange and the credential types; the loops that move bytes
// are written here, because they must verify what they read, resume what was cut, and do as a Retry-After says.
//
//	reference ─ routes (mirrors, then the registry itself) ─ ping, token ─ request ─ retry ─► verified bytes
//
// Whoever answers is a stranger: sizes are capped, digests checked, credentials stay with the host they belong to, redirects and
// other addresses that a registry hands out are dialled only if they are public or the user named them, and plain HTTP is
// spoken to loopback and to the hosts the user called insecure, nobody else.
package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// Limits on what a registry may send, in bytes.
const (
	MaxManifest = 8 << 20
	MaxConfig   = 16 << 20
)

// dockerHub is the name of Docker's registry in references; hubHost is where its API is.
const (
	dockerHub = "docker.io"
	hubHost   = "registry-1.docker.io"
)

// Options says how registries are reached. The zero value reaches public registries anonymously.
type Options struct {
	// AuthFiles are files in the form of Docker's config.json or containers' auth.json, asked in order; those that do not exist are
	// skipped. DefaultAuthFiles lists the usual ones.
	AuthFiles []string
	// Keychain is asked before AuthFiles. Nil asks nobody.
	Keychain authn.Keychain
	// Mirrors are asked before the registry of that host when pulling, in order ("docker.io" → "https://mirror.example"). A path in
	// the URL is put before the names of repositories. ParseMirror reads the command line's form.
	Mirrors map[string][]string
	// CAFiles are PEM files whose certificates are trusted besides the system's.
	CAFiles []string
	// InsecureHosts ("host" or "host:port") may have any certificate, or speak plain HTTP.
	InsecureHosts []string
	// AllowHosts ("host" or "host:port") may be private or loopback addresses although only a registry's redirect, upload
	// location or token realm names them. Registries, mirrors and proxies that the user names always may.
	AllowHosts []string
	// Realms are token servers ("auth.example") that get a registry's credentials although they are not of its domain.
	Realms []string
	// Parallel is how many blobs are moved at once, per direction; more where they have waited for 10 seconds. 0 is 4.
	Parallel int
	// UserAgent is sent with every request. "" is "cairn".
	UserAgent string

	// Clock is what retries wait by; nil is the real one.
	Clock Clock
	// DialControl decides on each connection to a host that nobody named; nil is RefusePrivate.
	DialControl func(network, address string, c syscall.RawConn) error
	// Proxy chooses a request's proxy; nil is http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// IdleTimeout ends a request on which nothing moves. 0 is one minute; an upload waits five times as long for its answer, in which
	// a registry may have to store gigabytes.
	IdleTimeout time.Duration
}

// Client reaches registries. It is safe for concurrent use.
type Client struct {
	opts      Options
	keys      *keychain
	hop       *hop
	http      *http.Client
	pulls     chan struct{}
	pushes    chan struct{}
	mirrors   map[string][]route
	mu        sync.Mutex
	hosts     map[string]*host
	uploading map[string]*flight
	// monolithic is the constant of that name; smaller in tests.
	monolithic int64
	// newTimer makes the timers of watchdogs; tests have their own.
	newTimer func(time.Duration, func()) timer
}

// New makes a client. Nothing is contacted; files of certificates are read, those of credentials only when they are needed.
func New(opts Options) (*Client, error) {
	opts = withDefaults(opts)
	c := &Client{
		opts:       opts,
		keys:       &keychain{files: opts.AuthFiles, first: opts.Keychain},
		pulls:      make(chan struct{}, opts.Parallel),
		pushes:     make(chan struct{}, opts.Parallel),
		mirrors:    map[string][]route{},
		hosts:      map[string]*host{},
		uploading:  map[string]*flight{},
		monolithic: monolithic,
		newTimer:   newTimer,
	}
	for _, h := range append(append([]string{}, opts.InsecureHosts...), opts.AllowHosts...) {
		if !validHost(h) {
			return nil, fmt.Errorf("reading registry host %q: want HOST or HOST:PORT", h)
		}
	}
	roots, err := certPool(opts.CAFiles)
	if err != nil {
		return nil, err
	}
	c.hop = newHop(&c.opts, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	c.http = &http.Client{Transport: c.hop, CheckRedirect: checkRedirect}
	for of, urls := range opts.Mirrors {
		if of == "index.docker.io" || of == hubHost {
			of = dockerHub
		}
		for _, raw := range urls {
			r, err := c.mirror(raw)
			if err != nil {
				return nil, fmt.Errorf("reading mirror of %s: %w", of, err)
			}
			c.mirrors[of] = append(c.mirrors[of], r)
		}
	}
	return c, nil
}

func withDefaults(o Options) Options {
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.UserAgent == "" {
		o.UserAgent = "cairn"
	}
	if o.Clock == nil {
		o.Clock = realClock{}
	}
	if o.DialControl == nil {
		o.DialControl = RefusePrivate
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = time.Minute
	}
	return o
}

// Close drops idle connections.
func (c *Client) Close() { c.hop.closeIdle() }

// ParseMirror reads "HOST=URL[,URL…]", or URLs alone, which mirror docker.io.
func ParseMirror(s string) (of string, urls []string, err error) {
	of, list := dockerHub, s
	if before, after, ok := strings.Cut(s, "="); ok && !strings.Contains(before, "/") {
		of, list = before, after
	}
	if !validHost(of) {
		return "", nil, fmt.Errorf("reading mirror %q: %q is not a host", s, of)
	}
	for u := range strings.SplitSeq(list, ",") {
		if !strings.Contains(u, "://") {
			u = "https://" + u
		}
		p, err := url.Parse(u)
		if err != nil || p.Host == "" || p.Scheme != "https" && p.Scheme != "http" || p.User != nil || p.RawQuery != "" || p.Fragment != "" {
			return "", nil, fmt.Errorf("reading mirror %q: want HOST=URL[,URL] with http or https URLs, without user or query", s)
		}
		urls = append(urls, u)
	}
	return of, urls, nil
}

func validHost(h string) bool {
	u, err := url.Parse("//" + h)
	return err == nil && h != "" && u.Host == h && u.Hostname() != ""
}

// mirror makes the route to a mirror. Naming it with http:// is asking for plain HTTP.
func (c *Client) mirror(raw string) (route, error) {
	_, urls, err := ParseMirror(raw)
	if err != nil {
		return route{}, err
	}
	u, err := url.Parse(urls[0])
	if err != nil {
		return route{}, err
	}
	if u.Scheme == "http" {
		c.hop.plain.add(u.Host)
	}
	h, err := c.host(u.Host)
	if err != nil {
		return route{}, err
	}
	return route{host: h, prefix: strings.Trim(u.Path, "/"), mirror: true}, nil
}

// target is a parsed reference: what is asked of a registry.
type target struct {
	ref    string // normalised, for messages
	domain string // "docker.io", "127.0.0.1:5000"
	path   string // "library/debian"
	tag    string
	digest digest.Digest
}

// manifest is the last component of the manifest's URL.
func (t target) manifest() string {
	if t.digest != "" {
		return t.digest.String()
	}
	return t.tag
}

// parse reads a reference as Docker does: docker.io, library/ and :latest are understood where they are missing.
func parse(ref string) (target, error) {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return target{}, &Error{Op: "parsing reference", Ref: clean(ref), Err: err}
	}
	n = reference.TagNameOnly(n)
	t := target{ref: n.String(), domain: reference.Domain(n), path: reference.Path(n)}
	if tagged, ok := n.(reference.Tagged); ok {
		t.tag = tagged.Tag()
	}
	if d, ok := n.(reference.Digested); ok {
		t.digest = d.Digest()
		if err := checkDigest(t.digest); err != nil {
			return target{}, &Error{Op: "parsing reference", Ref: t.ref, Err: err}
		}
	}
	return t, nil
}

// parseBlob reads the name of a repository, for a blob in it.
func parseBlob(repo string, d digest.Digest) (target, error) {
	n, err := reference.ParseNormalizedNamed(repo)
	if err == nil && !reference.IsNameOnly(n) {
		err = fmt.Errorf("want a repository, without tag or digest")
	}
	if err == nil {
		err = checkDigest(d)
	}
	if err != nil {
		return target{}, &Error{Op: "parsing repository", Ref: clean(repo), Err: err}
	}
	return target{ref: n.Name() + "@" + d.String(), domain: reference.Domain(n), path: reference.Path(n), digest: d}, nil
}

// checkDigest refuses what could not be verified, before it is part of any path or URL.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %s: %w", clean(d.String()), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("digest %s: algorithm %s is not supported", d, a)
	}
	return nil
}

// route is one way to a repository: through a mirror or straight.
type route struct {
	*host
	prefix string
	mirror bool
}

func (r route) repo(path string) string {
	if r.prefix == "" {
		return path
	}
	return r.prefix + "/" + path
}

// routes returns the ways to pull from a registry; the last one is the registry itself.
func (c *Client) routes(domain string) ([]route, error) {
	h, err := c.host(domain)
	if err != nil {
		return nil, err
	}
	return append(append([]route{}, c.mirrors[domain]...), route{host: h}), nil
}

// host returns what is known of a registry that the user or the Dockerfile named.
func (c *Client) host(domain string) (*host, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.hosts[domain]; ok {
		return h, nil
	}
	addr := domain
	if domain == dockerHub {
		addr = hubHost
	}
	var opts []name.Option
	plain := c.hop.plainAllowed(addr)
	if plain {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("reading registry host %q: %w", clean(domain), err)
	}
	c.hop.named.add(addr)
	h := &host{c: c, name: domain, addr: addr, reg: reg, lock: make(chan struct{}, 1), tokens: map[string]token{}}
	c.hosts[domain] = h
	return h, nil
}

// slotPatience is how long a blob waits for one of the client's slots.
const slotPatience = 10 * time.Second

// acquire takes one of the client's slots. Who has waited for long goes on without one: slots are there to be polite, and readers of several blobs
// may wait for each other (a layer is unpacked over the one below it).
func acquire(ctx context.Context, slots chan struct{}) (release func(), err error) {
	select {
	case slots <- struct{}{}:
		return sync.OnceFunc(func() { <-slots }), nil
	default:
	}
	patience := time.NewTimer(slotPatience)
	defer patience.Stop()
	select {
	case slots <- struct{}{}:
		return sync.OnceFunc(func() { <-slots }), nil
	case <-patience.C:
		return func() {}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// isLoopbackName reports whether a host name stands for this machine.
func isLoopbackName(hostname string) bool {
	if hostname == "localhost" {
		return true
	}
	ip := net.ParseIP(hostname)
	return ip != nil && ip.IsLoopback()
}
