package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// prove returns rc with what is read of it also read as a layer.
func (im *Imports) prove(ctx context.Context, l layer.Layer, rc io.ReadCloser) io.ReadCloser {
	pr, pw := io.Pipe()
	p := &proof{rc: rc, pw: pw, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		ix, err := layer.Unpack(ctx, pr, l, "", nil, layer.Limits{Temp: im.local.store.TempFile})
		if err == nil {
			// What follows the archive is not the layer's, but has to be read for the writer to end.
			_, err = io.Copy(io.Discard, pr)
		}
		if err == nil {
			err = im.proven(l, ix)
		}
		pr.CloseWithError(err)
		if err != nil {
			p.err = &layer.UnusableError{Layer: l, Err: fmt.Errorf("checking layer %s: %w", l.DiffID, err)}
		}
	}()
	return p
}

// proven notes that a layer is what it was said to be.
func (im *Imports) proven(l layer.Layer, ix *layer.Index) error {
	im.mu.Lock()
	c := im.indexes[l.DiffID]
	im.mu.Unlock()
	if c != nil {
		if same, err := c.ix.Equal(ix); err != nil {
			return err
		} else if !same {
			return c.wrong(l.DiffID)
		}
	}
	if err := im.local.store.PutLayer(l, ix); err != nil {
		return err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if c := im.claims[l.DiffID]; c != nil {
		c.proved = true
	}
	return nil
}

// proof is a blob that is checked while it is read.
type proof struct {
	rc   io.ReadCloser
	pw   *io.PipeWriter
	done chan struct{}
	err  error // of the check, once done is closed
}

func (p *proof) Read(b []byte) (int, error) {
	n, err := p.rc.Read(b)
	if n > 0 {
		if _, werr := p.pw.Write(b[:n]); werr != nil {
			<-p.done
			return 0, p.err
		}
	}
	if err == io.EOF {
		p.pw.Close()
		<-p.done
		if p.err != nil {
			return n, p.err
		}
	}
	return n, err
}

// Close implements io.Closer.
func (p *proof) Close() error {
	p.pw.CloseWithError(errors.New("it was not read to the end"))
	<-p.done
	return p.rc.Close()
}

// proveJobs is how many layers are fetched at once by Prove.
const proveJobs = 4

// Prove fetches those of layers that are only known by somebody's word, and checks them: for outputs that cannot be taken back.
func (im *Imports) Prove(ctx context.Context, layers []layer.Layer) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(proveJobs)
	seen := map[digest.Digest]bool{}
	for _, l := range layers {
		im.mu.Lock()
		c := im.claims[l.DiffID]
		need := c != nil && !c.proved && !seen[l.DiffID]
		im.mu.Unlock()
		seen[l.DiffID] = true
		if !need {
			continue
		}
		g.Go(func() error {
			rc, err := im.Blob(ctx, l)
			if err != nil {
				return err
			}
			defer rc.Close()
			_, err = io.Copy(io.Discard, rc)
			return err
		})
	}
	return g.Wait()
}
