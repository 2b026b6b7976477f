package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// maxAttempts bounds how often one thing is tried; maxWait is the longest wait between two attempts, and of all of them together.
	maxAttempts = 5
	maxWait     = time.Minute
	// progressed is how many new bytes of a blob make earlier failures forgotten: a long download on a bad line ends at last, one that
	// trickles does not go on for ever.
	progressed = 8 << 20
)

// Clock tells the time and waits.
type Clock interface {
	Now() time.Time
	// Sleep waits for d, or returns the error of ctx.
	Sleep(ctx context.Context, d time.Duration) error
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// temporary marks an error after which the same may be tried again, after a while if the registry said so. It is always the outermost
// error; final takes it off.
type temporary struct {
	err   error
	after time.Duration
}

func (t *temporary) Error() string { return t.err.Error() }
func (t *temporary) Unwrap() error { return t.err }

func isTemporary(err error) bool {
	t := new(temporary)
	return errors.As(err, &t)
}

func final(err error) error {
	if t := new(temporary); errors.As(err, &t) {
		return t.err
	}
	return err
}

// tries counts the attempts at one thing.
type tries struct {
	clock  Clock
	n      int
	waited time.Duration
}

// next waits until another attempt may be made after one that ended in cause, or returns cause when there is no point in it.
func (t *tries) next(ctx context.Context, cause error) error {
	t.n++
	tmp := new(temporary)
	if ctx.Err() != nil || !errors.As(cause, &tmp) || t.n >= maxAttempts || t.waited >= maxWait {
		return final(cause)
	}
	d := tmp.after
	if d <= 0 {
		// 0.5 s, 1 s, 2 s, 4 s, up to a quarter more so that many clients do not come back as one.
		d = time.Second / 2 << (t.n - 1)
		d += rand.N(d / 4)
	}
	d = min(d, maxWait-t.waited)
	t.waited += d
	if t.clock.Sleep(ctx, d) != nil {
		return final(cause)
	}
	return nil
}

// retry calls fn until it succeeds, fails for good, or has failed too often.
func (c *Client) retry(ctx context.Context, fn func() error) error {
	t := tries{clock: c.opts.Clock}
	for {
		err := fn()
		if err == nil {
			return nil
		}
		if err := t.next(ctx, err); err != nil {
			return err
		}
	}
}

// overRoutes calls fn for each mirror once, then for the registry itself with retries, until one succeeds.
func (c *Client) overRoutes(ctx context.Context, domain string, fn func(route) error) error {
	routes, err := c.routes(domain)
	if err != nil {
		return err
	}
	var skipped error
	for _, r := range routes[:len(routes)-1] {
		err := fn(r)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return final(err)
		}
		if skipped == nil {
			skipped = final(err)
		}
	}
	err = c.retry(ctx, func() error { return fn(routes[len(routes)-1]) })
	return withMirror(err, skipped)
}

// withMirror adds what a mirror said to the registry's own error.
func withMirror(err, mirror error) error {
	if err == nil || mirror == nil {
		return err
	}
	return fmt.Errorf("%w (before that, %s)", err, brief(mirror))
}

// networkError says what an error of the HTTP client is: temporary unless trying again cannot help.
func networkError(err error) error {
	var (
		cert *tls.CertificateVerificationError
		rec  tls.RecordHeaderError
		dns  *net.DNSError
	)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, errPlainHTTP), errors.Is(err, errPrivate), errors.Is(err, syscall.ECONNREFUSED),
		errors.As(err, &cert), errors.As(err, &rec), errors.As(err, new(x509.UnknownAuthorityError)),
		errors.As(err, &dns) && dns.IsNotFound, isNoTLS(err):
		return err
	case errors.Is(err, errIdle), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed), errors.As(err, new(net.Error)), errors.As(err, &dns):
		return &temporary{err: err}
	}
	// What is left are the HTTP library's own errors (broken connections, malformed answers), which have no types.
	if strings.Contains(err.Error(), "redirect") {
		return err
	}
	return &temporary{err: err}
}

// retryStatus reports whether a status may be another one next time.
func retryStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryAfter reads a Retry-After header: seconds or a date (RFC 9110, 10.2.3). It is at most maxWait; 0 when there is none.
func retryAfter(h string, now time.Time) time.Duration {
	h = strings.TrimSpace(h)
	if n, err := strconv.ParseUint(h, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, maxWait)
	}
	if t, err := http.ParseTime(h); err == nil {
		return max(0, min(t.Sub(now), maxWait))
	}
	return 0
}
