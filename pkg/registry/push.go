package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Upload is where a blob that is pushed comes from.
type Upload struct {
	// Open returns the content from its beginning; it is called for every attempt. It must be exactly as long as the descriptor says. If
	// what it returns is an io.Seeker, an interrupted upload goes on without reading what the registry has.
	Open func() (io.ReadCloser, error)
	// MountFrom are repositories ("registry.example/library/debian") that may have the blob; those of the same registry are asked to
	// lend it.
	MountFrom []string
	// Progress is told how many bytes of the blob the registry has got; it may go back after a failure. Nil is allowed.
	Progress func(n int64)
}

// monolithic is the largest blob, in bytes, that is sent in one request, and then sent again as a whole when that fails.
const monolithic = 64 << 20

// flight is an upload under way, for others who want the same.
type flight struct {
	done chan struct{}
	err  error
}

// PushBlob makes sure that a repository has a blob: it is there, or mounted from another repository, or uploaded. Of concurrent calls for
// the same blob and repository one does the work.
func (c *Client) PushBlob(ctx context.Context, repo string, d ocispec.Descriptor, up Upload) error {
	t, err := parseBlob(repo, d.Digest)
	if err != nil {
		return err
	}
	if up.Progress == nil {
		up.Progress = func(int64) {}
	}
	for {
		c.mu.Lock()
		f, busy := c.uploading[t.ref]
		if !busy {
			f = &flight{done: make(chan struct{})}
			c.uploading[t.ref] = f
		}
		c.mu.Unlock()
		if !busy {
			f.err = c.pushBlob(ctx, t, d, up)
			c.mu.Lock()
			delete(c.uploading, t.ref)
			c.mu.Unlock()
			close(f.done)
			return f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return &Error{Op: "pushing", Ref: t.ref, Err: context.Cause(ctx)}
		}
		if f.err == nil {
			up.Progress(d.Size)
			return nil
		}
		// The other's call may have been cancelled, or its source have failed: ours may do better.
	}
}

func (c *Client) pushBlob(ctx context.Context, t target, d ocispec.Descriptor, up Upload) error {
	h, err := c.host(t.domain)
	if err != nil {
		return err
	}
	release, err := acquire(ctx, c.pushes)
	if err != nil {
		return &Error{Op: "pushing", Ref: t.ref, Err: err}
	}
	defer release()
	u := &upload{host: h, t: t, size: d.Size, Upload: up}
	return c.retry(ctx, func() error { return u.attempt(ctx) })
}

// upload is one blob on its way.
type upload struct {
	*host
	t    target
	size int64
	Upload

	mountTried bool
	location   *url.URL // of the open session, nil if there is none
	off        int64    // bytes the registry has in it
}

// attempt makes one attempt. It first asks for the blob, also when it has been tried before: the answer to an upload that succeeded may
// have been lost.
func (u *upload) attempt(ctx context.Context) error {
	there, err := u.exists(ctx)
	if err != nil {
		return err
	}
	if there {
		u.Progress(u.size)
		return nil
	}
	if u.location != nil && u.status(ctx) != nil {
		u.location = nil
	}
	if u.location == nil {
		u.off = 0
		mounted, err := u.start(ctx)
		if err != nil {
			return err
		}
		if mounted {
			u.Progress(u.size)
			return nil
		}
	}
	// A small blob goes in the request that also ends the upload. A larger one goes before it, because registries keep what they have got of a
	// chunk that was cut, but not of the last request.
	if (u.off > 0 || u.size > u.c.monolithic) && u.off < u.size {
		if err := u.send(ctx, http.MethodPatch); err != nil {
			return err
		}
	}
	return u.send(ctx, http.MethodPut)
}

func (u *upload) call(method, path string) call {
	return call{op: "pushing", ref: u.t.ref, method: method, repo: u.t.path, path: path, scopes: []string{pushScope(u.t.path)}}
}

func (u *upload) exists(ctx context.Context) (bool, error) {
	resp, err := u.do(ctx, u.call(http.MethodHead, "/blobs/"+u.t.digest.String()))
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		// A length that differs is that of an error page or of a redirect's target, or the registry is broken: upload and see.
		return resp.ContentLength < 0 || resp.ContentLength == u.size, nil
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusMethodNotAllowed:
		return false, nil
	}
	return false, u.failure("pushing", u.t.ref, resp)
}

// start opens an upload session, or has the blob mounted.
func (u *upload) start(ctx context.Context) (mounted bool, err error) {
	if !u.mountTried {
		u.mountTried = true
		for _, from := range u.origins() {
			mounted, err := u.mount(ctx, from)
			if err != nil || mounted {
				return mounted, err
			}
			if u.location != nil {
				return false, nil
			}
		}
	}
	resp, err := u.do(ctx, u.call(http.MethodPost, "/blobs/uploads/"))
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return false, u.failure("pushing", u.t.ref, resp)
	}
	return false, u.follow(resp)
}

// origins are the paths of the repositories of this registry that may have the blob.
func (u *upload) origins() []string {
	var paths []string
	for _, from := range u.MountFrom {
		n, err := reference.ParseNormalizedNamed(from)
		if err == nil && reference.Domain(n) == u.t.domain && reference.Path(n) != u.t.path {
			paths = append(paths, reference.Path(n))
		}
	}
	return paths
}

// mount asks for the blob to be lent by another repository. A registry that cannot opens an upload session instead, which is kept; one
// that will not is no reason to give up.
func (u *upload) mount(ctx context.Context, from string) (bool, error) {
	rt := u.call(http.MethodPost, "/blobs/uploads/?mount="+url.QueryEscape(u.t.digest.String())+"&from="+url.QueryEscape(from))
	rt.scopes = append(rt.scopes, pullScope(from))
	resp, err := u.do(ctx, rt)
	if err != nil {
		// It may be that only the token for the other repository is refused.
		if e := new(Error); errors.As(err, &e) && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden) {
			return false, nil
		}
		return false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated:
		return true, nil
	case http.StatusAccepted:
		return false, u.follow(resp)
	}
	if retryStatus(resp.StatusCode) {
		return false, u.failure("pushing", u.t.ref, resp)
	}
	return false, nil
}

// follow notes where the upload goes on. Registries behind a proxy may not know the scheme they are reached by.
func (u *upload) follow(resp *http.Response) error {
	loc, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return &Error{Op: "pushing", Ref: u.t.ref, Host: u.name, Err: errors.New("the registry does not say where to upload to")}
	}
	loc = resp.Request.URL.ResolveReference(loc)
	if strings.EqualFold(loc.Host, u.addr) {
		loc.Scheme = u.scheme()
	}
	u.location = loc
	return nil
}

// status asks how much of an interrupted upload has arrived.
func (u *upload) status(ctx context.Context) error {
	rt := u.call(http.MethodGet, "")
	rt.url = u.location
	resp, err := u.do(ctx, rt)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusAccepted {
		return u.failure("pushing", u.t.ref, resp)
	}
	off, ok := uploaded(resp.Header.Get("Range"))
	if !ok || off > u.size {
		return &Error{Op: "pushing", Ref: u.t.ref, Host: u.name, Err: errors.New("the registry does not say how much it has")}
	}
	u.off = off
	if resp.Header.Get("Location") == "" {
		return nil
	}
	return u.follow(resp)
}

// uploaded reads the Range header of an upload, "0-LAST". Nothing and one byte are both written "0-0": then it is nothing.
func uploaded(h string) (int64, bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(h, "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || first != "0" || err != nil || n < 0 {
		return 0, false
	}
	if n == 0 {
		return 0, true
	}
	return n + 1, true
}

// send sends the content from u.off on: as a chunk (PATCH), or with the end of the upload (PUT).
func (u *upload) send(ctx context.Context, method string) error {
	src, err := u.source()
	if err != nil {
		return &Error{Op: "pushing", Ref: u.t.ref, Err: err}
	}
	defer src.Close()
	rt := u.call(method, "")
	loc := *u.location
	rt.header = http.Header{"Content-Type": {"application/octet-stream"}}
	rt.body, rt.size = src, u.size-u.off
	switch {
	case method == http.MethodPatch && u.off > 0:
		rt.header.Set("Content-Range", fmt.Sprintf("%d-%d", u.off, u.size-1))
	case method == http.MethodPut:
		// The rest of the query is the registry's own and stays as it is.
		if loc.RawQuery != "" {
			loc.RawQuery += "&"
		}
		loc.RawQuery += "digest=" + url.QueryEscape(u.t.digest.String())
	}
	rt.url = &loc
	resp, err := u.do(ctx, rt)
	if fault := src.fault(); fault != nil {
		if resp != nil {
			resp.Body.Close()
		}
		return &Error{Op: "pushing", Ref: u.t.ref, Err: fault}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case method == http.MethodPut && (resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusNoContent):
		u.Progress(u.size)
		return nil
	case method == http.MethodPatch && (resp.StatusCode == http.StatusAccepted || resp.StatusCode == http.StatusNoContent):
		if n, ok := uploaded(resp.Header.Get("Range")); ok && n != u.size {
			u.location = nil
			return &temporary{err: &Error{Op: "pushing", Ref: u.t.ref, Host: u.name, Err: fmt.Errorf("the registry took %d of %d bytes", n, u.size)}}
		}
		u.off = u.size
		return u.follow(resp)
	}
	err = u.failure("pushing", u.t.ref, resp)
	e := new(Error)
	if !isTemporary(err) && errors.As(err, &e) && (e.Status == http.StatusNotFound || e.Status == http.StatusRequestedRangeNotSatisfiable) {
		// The session is gone, or has another state than we think: begin again.
		u.location = nil
		return &temporary{err: err}
	}
	return err
}

// tellEvery is after how many bytes an upload's progress is reported.
const tellEvery = 256 << 10

// source is the content of an upload from u.off on, exactly as long as it must be.
type source struct {
	// mu is needed because the transport may read on after it has returned an early answer.
	mu       sync.Mutex
	rc       io.ReadCloser
	closed   bool
	left     int64
	sent     int64
	told     int64 // to progress
	progress func(int64)
	err      error // the content's own fault: there is no point in trying again
}

func (u *upload) source() (*source, error) {
	rc, err := u.Open()
	if err != nil {
		return nil, fmt.Errorf("opening the blob: %w", err)
	}
	if u.off > 0 {
		if s, ok := rc.(io.Seeker); ok {
			_, err = s.Seek(u.off, io.SeekStart)
		} else {
			_, err = io.CopyN(io.Discard, rc, u.off)
		}
		if err != nil {
			rc.Close()
			return nil, fmt.Errorf("skipping %d bytes of the blob: %w", u.off, err)
		}
	}
	return &source{rc: rc, left: u.size - u.off, sent: u.off, progress: u.Progress}, nil
}

func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, io.ErrClosedPipe
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.rc.Read(p)
	s.left -= int64(n)
	s.sent += int64(n)
	switch {
	case s.left < 0:
		s.err = errors.New("the blob is longer than its descriptor says")
	case err == io.EOF && s.left > 0:
		s.err = fmt.Errorf("the blob is %d bytes shorter than its descriptor says", s.left)
	case err != nil && err != io.EOF:
		s.err = fmt.Errorf("reading the blob: %w", err)
	}
	if s.err != nil {
		return 0, s.err
	}
	if s.sent-s.told >= tellEvery || err == io.EOF {
		s.told = s.sent
		s.progress(s.sent)
	}
	return n, err
}

func (s *source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.rc.Close()
}

func (s *source) fault() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// PushManifest puts a manifest or index under a reference: a tag, or its own digest. What it names must be in the repository by then. It is the
// last thing to push, since from then on the image can be seen.
func (c *Client) PushManifest(ctx context.Context, ref, mediaType string, body []byte) error {
	t, err := parse(ref)
	if err != nil {
		return err
	}
	want := digest.FromBytes(body)
	if t.digest != "" {
		if want = t.digest.Algorithm().FromBytes(body); want != t.digest {
			return &Error{Op: "pushing", Ref: t.ref, Err: fmt.Errorf("the manifest has the digest %s", want)}
		}
	}
	h, err := c.host(t.domain)
	if err != nil {
		return err
	}
	return c.retry(ctx, func() error {
		resp, err := h.do(ctx, call{
			op: "pushing", ref: t.ref, method: http.MethodPut, repo: t.path, path: "/manifests/" + t.manifest(),
			header: http.Header{"Content-Type": {mediaType}}, scopes: []string{pushScope(t.path)},
			body: strings.NewReader(string(body)), size: int64(len(body)),
		})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
			return h.failure("pushing", t.ref, resp)
		}
		if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != want.String() {
			return &Error{Op: "pushing", Ref: t.ref, Host: h.name, Err: fmt.Errorf("the registry says it stored %s instead of %s", clean(got), want)}
		}
		return nil
	})
}
