package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/net/publicsuffix"
)

// host is one registry or mirror.
type host struct {
	c    *Client
	name string // in references: "docker.io"
	addr string // where it is: "registry-1.docker.io"
	reg  name.Registry

	// lock is held while the registry is asked how it wants to be talked to, and guards what follows. It is a channel so that waiting
	// for it ends with a context.
	lock   chan struct{}
	tokens map[string]token
	// pingResult is written under the lock and read without.
	pingResult atomic.Pointer[transport.Challenge]

	// What hints are made of.
	usedCredentials atomic.Bool
	foreignRealm    atomic.Pointer[string]
}

// token is a bearer token for one set of scopes.
type token struct {
	value string
	until time.Time
}

// call is one request to a registry.
type call struct {
	op, ref string // for errors
	method  string
	repo    string // path of the repository
	path    string // below the repository: "/manifests/latest"
	url     *url.URL
	header  http.Header
	// scopes are what the token must allow.
	scopes []string
	// body is read once; size bytes.
	body io.Reader
	size int64
}

func pullScope(repo string) string { return "repository:" + repo + ":pull" }
func pushScope(repo string) string { return "repository:" + repo + ":pull,push" }

// do makes one attempt at a call and returns the answer, whatever its status. A token that is no longer good is renewed once. Errors are
// *Error, inside a temporary where trying again may help. The caller closes the body.
func (h *host) do(ctx context.Context, rt call) (*http.Response, error) {
	for renewed := false; ; renewed = true {
		auth, err := h.authorize(ctx, rt, renewed)
		if err != nil {
			return nil, err
		}
		resp, err := h.send(ctx, rt, auth)
		if err != nil {
			return nil, h.broken(rt.op, rt.ref, err)
		}
		if resp.StatusCode != http.StatusUnauthorized || renewed || !strings.HasPrefix(auth, "Bearer ") || !h.own(resp.Request.URL) {
			return resp, nil
		}
		if rt.body != nil {
			// What was read of the body is gone: the caller begins again, with a new token.
			err := h.failure(rt.op, rt.ref, resp)
			resp.Body.Close()
			h.forget(ctx, rt)
			return nil, &temporary{err: err, after: time.Millisecond}
		}
		resp.Body.Close()
	}
}

// send makes the request with an Authorization header, which goes to the registry itself only.
func (h *host) send(ctx context.Context, rt call, auth string) (*http.Response, error) {
	u := rt.url
	if u == nil {
		u = &url.URL{Scheme: h.scheme(), Host: h.addr, Path: "/v2/" + rt.repo + rt.path}
		if p, q, ok := strings.Cut(rt.path, "?"); ok {
			u.Path, u.RawQuery = "/v2/"+rt.repo+p, q
		}
	}
	idle := h.c.opts.IdleTimeout
	if rt.method != http.MethodGet && rt.method != http.MethodHead {
		idle *= 5
	}
	ctx, dog := h.c.watch(ctx, idle)
	var body io.Reader
	if rt.body != nil {
		body = &fed{r: rt.body, dog: dog}
	}
	req, err := http.NewRequestWithContext(ctx, rt.method, u.String(), body)
	if err != nil {
		dog.stop()
		return nil, err
	}
	if rt.header != nil {
		req.Header = rt.header.Clone()
	}
	if body != nil {
		req.ContentLength = rt.size
		if rt.size == 0 {
			req.Body = http.NoBody
		}
	}
	if auth != "" && h.own(u) {
		req.Header.Set("Authorization", auth)
	}
	resp, err := h.c.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = &url.Error{Op: rt.method, URL: u.String(), Err: cause}
		}
		dog.stop()
		return nil, err
	}
	dog.rest()
	resp.Body = &watched{ReadCloser: resp.Body, dog: dog}
	return resp, nil
}

// own reports whether a URL is of this registry itself.
func (h *host) own(u *url.URL) bool {
	return u.Scheme == h.scheme() && withPort(u) == withPort(&url.URL{Scheme: u.Scheme, Host: h.addr})
}

// scheme is "http" where the ping was answered so.
func (h *host) scheme() string {
	if p := h.pingResult.Load(); p != nil && p.Insecure {
		return "http"
	}
	return "https"
}

// authorize returns the Authorization header for a call, "" for none, after it has found out (once) what the registry wants.
func (h *host) authorize(ctx context.Context, rt call, renew bool) (string, error) {
	select {
	case h.lock <- struct{}{}:
		defer func() { <-h.lock }()
	case <-ctx.Done():
		return "", &Error{Op: rt.op, Ref: rt.ref, Err: context.Cause(ctx)}
	}
	if h.pingResult.Load() == nil {
		p := &pinned{inner: h.c.hop, host: h.addr}
		ctx, dog := h.c.watch(ctx, h.c.opts.IdleTimeout)
		defer dog.stop()
		ch, err := transport.Ping(ctx, h.reg, p)
		if err != nil {
			return "", h.pingError(rt.op, rt.ref, p, orCause(ctx, err))
		}
		h.pingResult.Store(ch)
	}
	ch := h.pingResult.Load()
	kind := strings.ToLower(ch.Scheme)
	if kind == "" {
		return "", nil
	}
	auth, err := h.c.keys.lookup(ctx, h.name, rt.repo)
	if err != nil {
		return "", &Error{Op: rt.op, Ref: rt.ref, Host: h.name, Err: err}
	}
	switch {
	case auth != nil && auth.RegistryToken != "":
		h.usedCredentials.Store(true)
		return "Bearer " + auth.RegistryToken, nil
	case kind == "bearer":
		return h.bearer(ctx, rt, auth, renew)
	case kind == "basic" && auth != nil && auth.Username != "":
		h.usedCredentials.Store(true)
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(auth.Username+":"+auth.Password)), nil
	case kind == "basic":
		return "", nil
	}
	err = fmt.Errorf("the registry wants %q authentication, which is not supported", clean(ch.Scheme))
	return "", &Error{Op: rt.op, Ref: rt.ref, Host: h.name, Err: err}
}

// bearer returns a token for the call's scopes, from memory while it is good. The lock is held.
func (h *host) bearer(ctx context.Context, rt call, auth *authn.AuthConfig, renew bool) (string, error) {
	key := strings.Join(rt.scopes, " ")
	now := h.c.opts.Clock.Now()
	if t, ok := h.tokens[key]; ok && !renew && now.Before(t.until) {
		return "Bearer " + t.value, nil
	}
	ch := h.pingResult.Load()
	realm, err := url.Parse(ch.Parameters["realm"])
	if err != nil || realm.Host == "" {
		return "", &Error{Op: rt.op, Ref: rt.ref, Host: h.name, Err: errors.New("the registry names no token server")}
	}
	from := authn.Anonymous
	if auth != nil && (auth.Username != "" || auth.IdentityToken != "") {
		if h.trusts(realm) {
			from = authn.FromConfig(*auth)
			h.usedCredentials.Store(true)
		} else {
			foreign := clean(realm.Host)
			h.foreignRealm.Store(&foreign)
		}
	}
	ctx, dog := h.c.watch(ctx, h.c.opts.IdleTimeout)
	defer dog.stop()
	p := &pinned{inner: h.c.hop, host: realm.Host}
	t, err := transport.Exchange(ctx, h.reg, from, p, rt.scopes, ch)
	if err != nil {
		return "", h.pingError(rt.op, rt.ref, p, orCause(ctx, err))
	}
	tok := token{value: t.Token}
	if tok.value == "" {
		tok.value = t.AccessToken
	}
	// A token without a lifetime is good for 60 seconds (distribution token specification); it is used for the first nine tenths of it.
	life := time.Duration(min(max(t.ExpiresIn, 60), 86400)) * time.Second
	tok.until = now.Add(life * 9 / 10)
	h.tokens[key] = tok
	return "Bearer " + tok.value, nil
}

// forget drops the token of a call.
func (h *host) forget(ctx context.Context, rt call) {
	select {
	case h.lock <- struct{}{}:
		delete(h.tokens, strings.Join(rt.scopes, " "))
		<-h.lock
	case <-ctx.Done():
	}
}

// trusts reports whether a token server may have this registry's credentials: it is the same host, one of the same registrable
// domain (registry.gitlab.com and gitlab.com), or listed by the user. Otherwise whoever can answer for a registry, or make one up, could have the
// password sent to wherever he likes (CVE-2020-15157).
func (h *host) trusts(realm *url.URL) bool {
	if realm.Scheme != "https" && !h.c.hop.plainAllowed(realm.Host) {
		return false
	}
	theirs, ours := strings.ToLower(realm.Hostname()), strings.ToLower(hostname(h.addr))
	if theirs == ours || slices.Contains(h.c.opts.Realms, realm.Host) || slices.Contains(h.c.opts.Realms, theirs) {
		return true
	}
	if net.ParseIP(theirs) != nil || net.ParseIP(ours) != nil {
		return false
	}
	a, aerr := publicsuffix.EffectiveTLDPlusOne(theirs)
	b, berr := publicsuffix.EffectiveTLDPlusOne(ours)
	return aerr == nil && berr == nil && a == b
}

func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
