package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxRedirects is how many times one request is sent on.
const maxRedirects = 5

var (
	errPlainHTTP = errors.New("plain HTTP is only spoken to loopback and insecure registries")
	errPrivate   = errors.New("refusing to connect to a private address that only the registry named")
)

// hop makes single requests: it chooses the TLS configuration by host and applies the policies that hold for every hop, the named one
// and those a registry sends us to.
type hop struct {
	opts     *Options
	verified *http.Transport
	lax      *http.Transport // for InsecureHosts
	named    *hostSet        // by the user, the Dockerfile or the environment
	plain    *hostSet        // named with http://
	insecure *hostSet
}

func newHop(opts *Options, cfg *tls.Config) *hop {
	h := &hop{opts: opts, named: newHostSet(opts.AllowHosts), plain: newHostSet(nil), insecure: newHostSet(opts.InsecureHosts)}
	h.verified = &http.Transport{
		Proxy:               h.proxy,
		DialContext:         h.dial,
		TLSClientConfig:     cfg,
		TLSHandshakeTimeout: 15 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     30 * time.Second,
		// A blob is what was stored, not what an encoding in between makes of it.
		DisableCompression: true,
	}
	h.lax = h.verified.Clone()
	h.lax.TLSClientConfig.InsecureSkipVerify = true
	return h
}

func (h *hop) closeIdle() {
	h.verified.CloseIdleConnections()
	h.lax.CloseIdleConnections()
}

// plainAllowed reports whether plain HTTP may be spoken to a "host[:port]".
func (h *hop) plainAllowed(addr string) bool {
	return isLoopbackName(hostname(addr)) || h.plain.has(addr) || h.insecure.has(addr)
}

// RoundTrip implements http.RoundTripper.
func (h *hop) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !(req.URL.Scheme == "http" && h.plainAllowed(req.URL.Host)) {
		return nil, errPlainHTTP
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", h.opts.UserAgent)
	if h.insecure.has(req.URL.Host) {
		return h.lax.RoundTrip(req)
	}
	return h.verified.RoundTrip(req)
}

// proxy asks for the proxy of a request. The proxy is a host the user named. It resolves names itself, so of the hosts that nobody named
// it is only kept from those written as a private address.
func (h *hop) proxy(req *http.Request) (*url.URL, error) {
	p, err := h.opts.Proxy(req)
	if err != nil || p == nil {
		return p, err
	}
	if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil && private(ip) && !h.named.has(withPort(req.URL)) {
		return nil, fmt.Errorf("%w: %s", errPrivate, req.URL.Host)
	}
	h.named.add(withPort(p))
	return p, nil
}

// dial connects. The policy sees the address after the name has been looked up, so no spelling and no DNS answer gets around it.
func (h *hop) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	if !h.named.has(addr) {
		d.Control = h.opts.DialControl
	}
	return d.DialContext(ctx, network, addr)
}

// RefusePrivate is a net.Dialer.Control function that refuses addresses which are not public: loopback, private, link-local (where clouds
// keep their metadata service), carrier-grade NAT, multicast and unspecified ones.
func RefusePrivate(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s", errPrivate, address)
	}
	if private(ap.Addr()) {
		return fmt.Errorf("%w: %s", errPrivate, ap.Addr())
	}
	return nil
}

// Networks that netip has no name for: "this network" (RFC 1122), carrier-grade NAT (RFC 6598), and NAT64 (RFC 6052), which
// may stand for any IPv4 address.
func private(ip netip.Addr) bool {
	ip = ip.WithZone("").Unmap()
	if !ip.IsValid() || ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return true
	}
	for _, p := range []string{"0.0.0.0/8", "100.64.0.0/10", "64:ff9b::/96", "255.255.255.255/32"} {
		if netip.MustParsePrefix(p).Contains(ip) {
			return true
		}
	}
	return false
}

// checkRedirect is for http.Client. The client's own rule keeps Authorization for subdomains and other ports of the host: not here.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	first := via[0].URL
	if req.URL.Scheme != first.Scheme || withPort(req.URL) != withPort(first) {
		req.Header.Del("Authorization")
	}
	// An upload's URL may carry its state.
	req.Header.Del("Referer")
	return nil
}

// pinned lets requests through to one host only. Token requests carry credentials in their body too.
type pinned struct {
	inner http.RoundTripper
	host  string

	mu         sync.Mutex // a ping asks by both schemes at once
	retryAfter string     // the header of the last answer
	tlsErr     error      // what the last requests by HTTPS and by plain HTTP ended in
	plainErr   error
}

func (p *pinned) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != p.host {
		return nil, fmt.Errorf("%s redirects to %s, which is not followed here", p.host, clean(req.URL.Host))
	}
	resp, err := p.inner.RoundTrip(req)
	p.mu.Lock()
	defer p.mu.Unlock()
	if resp != nil {
		p.retryAfter = resp.Header.Get("Retry-After")
	}
	if req.URL.Scheme == "https" {
		p.tlsErr = err
	} else if !errors.Is(err, errPlainHTTP) {
		p.plainErr = err
	}
	return resp, err
}

// certPool is the system's pool with more certificates; nil, which stands for the system's, without.
func certPool(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the system's certificates: %w", err)
	}
	for _, f := range files {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("reading certificates: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading certificates: %s holds no PEM certificate", f)
		}
	}
	return pool, nil
}

// hostSet is a set of "host" (any port) and "host:port".
type hostSet struct {
	mu sync.RWMutex
	m  map[string]bool
}

func newHostSet(hosts []string) *hostSet {
	s := &hostSet{m: map[string]bool{}}
	for _, h := range hosts {
		s.m[strings.ToLower(h)] = true
	}
	return s
}

// add takes "host:port", or "host", which is then meant with the ports of https and http.
func (s *hostSet) add(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr = strings.ToLower(addr)
	if port(addr) != "" {
		s.m[addr] = true
		return
	}
	s.m[net.JoinHostPort(hostname(addr), "443")] = true
	s.m[net.JoinHostPort(hostname(addr), "80")] = true
}

// has reports whether addr was added, or is the host of an entry without port. An addr without port is meant with that of https or http.
func (s *hostSet) has(addr string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	addr = strings.ToLower(addr)
	if h := hostname(addr); s.m[h] || s.m["["+h+"]"] || s.m[addr] {
		return true
	}
	return port(addr) == "" && (s.m[net.JoinHostPort(hostname(addr), "443")] || s.m[net.JoinHostPort(hostname(addr), "80")])
}

func hostname(addr string) string { return (&url.URL{Host: addr}).Hostname() }
func port(addr string) string     { return (&url.URL{Host: addr}).Port() }

// withPort is the host and port that a URL means.
func withPort(u *url.URL) string {
	p := u.Port()
	if p == "" {
		p = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return strings.ToLower(net.JoinHostPort(u.Hostname(), p))
}
