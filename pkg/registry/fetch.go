package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FetchBlob returns the content of a blob of a repository ("docker.io/library/debian"). It is verified as it is read: the last Read returns
// io.EOF only if size and digest are those of d, so a reader must read up to there before it believes what it read. A cut connection is
// taken up again where it broke. ctx is for the whole of the transfer. Beginning waits for one of Options.Parallel places; it is given
// back at the end of the content or by Close.
func (c *Client) FetchBlob(ctx context.Context, repo string, d ocispec.Descriptor) (io.ReadCloser, error) {
	t, err := parseBlob(repo, d.Digest)
	if err != nil {
		return nil, err
	}
	routes, err := c.routes(t.domain)
	if err != nil {
		return nil, err
	}
	return c.fetch(ctx, t, d, routes)
}

func (c *Client) fetch(ctx context.Context, t target, d ocispec.Descriptor, routes []route) (io.ReadCloser, error) {
	if d.Size < 0 {
		return nil, &Error{Op: "fetching", Ref: t.ref, Err: fmt.Errorf("its descriptor has the size %d", d.Size)}
	}
	if len(d.Data) > 0 && int64(len(d.Data)) == d.Size && t.digest.Algorithm().FromBytes(d.Data) == t.digest {
		return io.NopCloser(bytes.NewReader(d.Data)), nil
	}
	release, err := acquire(ctx, c.pulls)
	if err != nil {
		return nil, &Error{Op: "fetching", Ref: t.ref, Err: err}
	}
	b := &blob{
		ctx: ctx, t: t, size: d.Size, routes: routes, release: release,
		hash: t.digest.Verifier(), tries: tries{clock: c.opts.Clock},
	}
	if err := b.open(nil); err != nil {
		release()
		return nil, err
	}
	return b, nil
}

// FetchSmall returns the whole content of a blob, verified, refusing one larger than limit bytes.
func (c *Client) FetchSmall(ctx context.Context, repo string, d ocispec.Descriptor, limit int64) ([]byte, error) {
	t, err := parseBlob(repo, d.Digest)
	if err != nil {
		return nil, err
	}
	if d.Size > limit {
		return nil, &Error{Op: "fetching", Ref: t.ref, Err: fmt.Errorf("it has %d bytes, more than the %d allowed", d.Size, limit)}
	}
	routes, err := c.routes(t.domain)
	if err != nil {
		return nil, err
	}
	var data []byte
	err = c.retry(ctx, func() error {
		rc, err := c.fetch(ctx, t, d, routes)
		if err == nil {
			data, err = io.ReadAll(rc)
			rc.Close()
		}
		if errors.Is(err, errContent) {
			// It is small enough to be fetched again, and not from where it was wrong.
			routes = routes[min(1, len(routes)-1):]
			return &temporary{err: err, after: time.Millisecond}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

var errContent = errors.New("what the registry sent is not what the digest says")

// blob is a blob being read.
type blob struct {
	ctx     context.Context // of the transfer: a read may have to ask again
	t       target
	size    int64
	routes  []route
	release func()
	hash    digest.Verifier

	at      int   // the route in use
	off     int64 // bytes delivered
	mark    int64 // off at the last failure
	tries   tries
	skipped error // what the first mirror that failed said
	body    io.ReadCloser
	pending error // of body, to be dealt with before the next read
	err     error
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, b.err
	}
	for b.err == nil {
		if b.pending != nil {
			b.err = b.settle(b.pending)
			b.pending = nil
			continue
		}
		n, err := b.body.Read(p)
		b.pending = err
		if n == 0 {
			continue
		}
		b.off += int64(n)
		if b.off > b.size {
			b.err = b.fail(fmt.Errorf("%w: it is longer than %d bytes", errContent, b.size))
			break
		}
		b.hash.Write(p[:n])
		return n, nil
	}
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
	b.release()
	return 0, b.err
}

// settle decides what the end of a body means: the end of the blob, or a reason to ask for the rest.
func (b *blob) settle(end error) error {
	if b.off == b.size {
		if !b.hash.Verified() {
			return b.fail(errContent)
		}
		return io.EOF
	}
	b.body.Close()
	b.body = nil
	if end == io.EOF {
		end = io.ErrUnexpectedEOF
	}
	if b.off-b.mark >= progressed {
		b.tries = tries{clock: b.tries.clock}
	}
	b.mark = b.off
	return b.open(b.routes[b.at].broken("fetching", b.t.ref, fmt.Errorf("after %d of %d bytes: %w", b.off, b.size, end)))
}

// open asks for the content from b.off on, of the mirrors and then the registry. cause is what ended the attempt before.
func (b *blob) open(cause error) error {
	for {
		last := b.at == len(b.routes)-1
		switch {
		case cause == nil:
		case !last:
			// A mirror gets one chance; what it delivered so far counts.
			if b.ctx.Err() != nil {
				return final(cause)
			}
			if b.skipped == nil {
				b.skipped = final(cause)
			}
			b.at++
		default:
			if err := b.tries.next(b.ctx, cause); err != nil {
				return withMirror(err, b.skipped)
			}
		}
		body, err := b.request(b.routes[b.at])
		if err == nil {
			b.body = body
			return nil
		}
		cause = err
	}
}

// request makes one attempt at getting the content from b.off on.
func (b *blob) request(r route) (io.ReadCloser, error) {
	repo := r.repo(b.t.path)
	rt := call{
		op: "fetching", ref: b.t.ref, method: http.MethodGet, repo: repo, path: "/blobs/" + b.t.digest.String(),
		scopes: []string{pullScope(repo)},
	}
	if b.off > 0 {
		rt.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", b.off, b.size-1)}}
	}
	resp, err := r.do(b.ctx, rt)
	if err != nil {
		return nil, err
	}
	body, err := b.accept(r, resp)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return body, nil
}

// accept looks at an answer and returns the content from b.off on.
func (b *blob) accept(r route, resp *http.Response) (io.ReadCloser, error) {
	wrong := func(format string, args ...any) error {
		return &Error{Op: "fetching", Ref: b.t.ref, Host: r.name, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent && b.off > 0:
		var first, end, whole int64
		got := resp.Header.Get("Content-Range")
		if n, _ := fmt.Sscanf(got, "bytes %d-%d/%d", &first, &end, &whole); n < 2 || first != b.off || n == 3 && whole != b.size {
			return nil, wrong("asked for bytes %d to %d, the registry sent %q", b.off, b.size-1, clean(got))
		}
		return resp.Body, nil
	case resp.StatusCode == http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != b.size {
			return nil, wrong("%w: it has %d bytes instead of %d", errContent, resp.ContentLength, b.size)
		}
		// The registry may not know ranges. What was delivered is passed over; the digest is over what is delivered.
		if _, err := io.CopyN(io.Discard, resp.Body, b.off); err != nil {
			return nil, r.broken("fetching", b.t.ref, fmt.Errorf("skipping %d bytes: %w", b.off, err))
		}
		return resp.Body, nil
	}
	return nil, r.failure("fetching", b.t.ref, resp)
}

func (b *blob) fail(err error) error {
	return &Error{Op: "fetching", Ref: b.t.ref, Host: b.routes[b.at].name, Err: err}
}

// Close implements io.Closer.
func (b *blob) Close() error {
	if b.err == nil {
		b.err = errors.New("reading a closed blob")
	}
	b.release()
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
	return nil
}
