package registry

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Error is a failed exchange with a registry. Its text is one line and holds nothing unprintable, whatever the registry sent.
type Error struct {
	// Op is what was being done: "resolving", "fetching", "pushing".
	Op string
	// Ref is the normalised reference, or repository@digest.
	Ref string
	// Host answered: the registry, a mirror, or whoever one of them sent us to. Empty if nobody was asked.
	Host string
	// Status is the HTTP status, 0 if there was no answer. Code and Message are the registry's own words, empty if it had none.
	Status        int
	Code, Message string
	// Hint says what the user can do; may be empty.
	Hint string
	// Err is the cause where it is not an answer.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Op, e.Ref)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": %s answered %d %s", e.Host, e.Status, http.StatusText(e.Status))
		if e.Code != "" || e.Message != "" {
			fmt.Fprintf(&b, " (%s)", strings.TrimPrefix(e.Code+": "+e.Message, ": "))
		}
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %s", clean(e.Err.Error()))
	}
	return hint.Text(b.String(), e.Hint)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Refused reports whether the registry answered that it will not do it: who asks again is told the same.
func (e *Error) Refused() bool { return e.Status >= 400 && e.Status < 500 && !retryStatus(e.Status) }

// Is makes fs.ErrNotExist stand for what a registry does not have.
func (e *Error) Is(target error) bool {
	return target == fs.ErrNotExist && e.Status == http.StatusNotFound
}

// brief is an error in few words, for use inside another.
func brief(err error) string {
	if e := new(Error); errors.As(err, &e) {
		switch {
		case e.Status != 0:
			return fmt.Sprintf("mirror %s answered %d", e.Host, e.Status)
		case e.Host != "":
			return clean(fmt.Sprintf("mirror %s: %v", e.Host, e.Err))
		}
	}
	return clean(err.Error())
}

// clean makes a stranger's text fit for one line of a terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if r := []rune(s); len(r) > 500 {
		s = string(r[:500]) + "…"
	}
	return strings.TrimSpace(s)
}

// failure makes the error of an answer that is not what was wanted, and says whether to try again. The body is read.
func (h *host) failure(op, ref string, resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := &Error{Op: op, Ref: ref, Host: h.name, Status: resp.StatusCode}
	own := h.own(resp.Request.URL)
	if !own {
		e.Host = clean(resp.Request.URL.Host)
	}
	var said struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &said) == nil && len(said.Errors) > 0 {
		e.Code, e.Message = clean(said.Errors[0].Code), clean(said.Errors[0].Message)
	}
	if own {
		e.Hint = h.hint(resp.StatusCode)
	}
	if e.Hint == "" && (e.Code == "MANIFEST_UNKNOWN" || e.Code == "NAME_UNKNOWN") {
		e.Hint = "check the name and the tag; short names are looked up on docker.io"
	}
	if retryStatus(resp.StatusCode) {
		return &temporary{err: e, after: retryAfter(resp.Header.Get("Retry-After"), h.c.opts.Clock.Now())}
	}
	return e
}

// hint says what to do about a refusal.
func (h *host) hint(status int) string {
	switch {
	case status == http.StatusUnauthorized && h.foreignRealm.Load() != nil:
		return fmt.Sprintf("credentials for %s are not given to its token server %s, which is of another domain", h.name, *h.foreignRealm.Load())
	case status == http.StatusUnauthorized && h.usedCredentials.Load():
		return fmt.Sprintf("the credentials for %s were not accepted or do not allow this: log in again (cairn login %s)", h.name, h.name)
	case status == http.StatusUnauthorized:
		return fmt.Sprintf("there is no such repository, or it needs a login (cairn login %s)", h.name)
	case status == http.StatusForbidden && h.usedCredentials.Load():
		return fmt.Sprintf("the credentials for %s do not allow this", h.name)
	case status == http.StatusForbidden:
		return fmt.Sprintf("it may need a login (cairn login %s)", h.name)
	case status == http.StatusTooManyRequests && !h.usedCredentials.Load():
		return "the limit may be higher after a login, or use a mirror"
	}
	return ""
}

// broken makes the error of a request that got no answer.
func (h *host) broken(op, ref string, err error) error {
	e := &Error{Op: op, Ref: ref, Host: h.name, Err: err}
	// The URL is the registry's business, and may carry the state of an upload.
	if u := new(url.Error); errors.As(err, &u) {
		e.Err = u.Err
		if p, perr := url.Parse(u.URL); perr == nil && p.Host != "" && !h.own(p) {
			e.Host = clean(p.Host)
		}
	}
	e.Hint = h.networkHint(e.Err)
	if err = networkError(e.Err); isTemporary(err) {
		return &temporary{err: e}
	}
	return e
}

func isNoTLS(err error) bool { return strings.Contains(err.Error(), "HTTP response to HTTPS client") }

func (h *host) networkHint(err error) string {
	msg := err.Error()
	switch {
	case isNoTLS(err), errors.Is(err, errPlainHTTP):
		return fmt.Sprintf("for plain HTTP name the host with --insecure-registry %s", h.name)
	case strings.Contains(msg, "x509: certificate signed by unknown authority"), strings.Contains(msg, "x509: certificate is not trusted"):
		return "give its CA with --registry-ca FILE"
	}
	return ""
}

// pingError translates what go-containerregistry returned from a ping or a token request.
func (h *host) pingError(op, ref string, p *pinned, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	te := new(transport.Error)
	// Where both schemes may be spoken, the error of the one that the host knows is the one that says something.
	switch {
	case errors.As(p.tlsErr, new(*tls.CertificateVerificationError)):
		return h.broken(op, ref, p.tlsErr)
	case errors.As(err, &te):
	case p.plainErr != nil && isNoTLS(err):
		return h.broken(op, ref, p.plainErr)
	default:
		return h.broken(op, ref, err)
	}
	e := &Error{Op: op, Ref: ref, Host: h.name, Status: te.StatusCode, Hint: h.hint(te.StatusCode)}
	if p.host != h.addr {
		e.Host = clean(p.host)
	}
	if len(te.Errors) > 0 {
		e.Code, e.Message = clean(string(te.Errors[0].Code)), clean(te.Errors[0].Message)
	}
	if retryStatus(te.StatusCode) {
		return &temporary{err: e, after: retryAfter(p.retryAfter, h.c.opts.Clock.Now())}
	}
	return e
}
