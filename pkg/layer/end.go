package layer

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Close ends the layer and returns its DiffID, the media type of what was written to dst, and its Index.
func (w *Writer) Close() (diffID digest.Digest, mediaType string, ix *Index, err error) {
	diffID, ix, rest, err := w.End()
	if err != nil {
		return "", "", nil, err
	}
	if mediaType, err = rest(); err != nil {
		return "", "", nil, err
	}
	if z, ok := w.comp.(*estargzWriter); ok {
		diffID = z.diffID
	}
	return diffID, mediaType, ix, nil
}

// Annotations are those that the descriptor of a closed layer needs: SeekableAnnotations, or none.
func (w *Writer) Annotations() map[string]string {
	if z, ok := w.comp.(*estargzWriter); ok {
		return z.annotations
	}
	return nil
}

// End is Close in two parts: it returns what is known when the archive has ended, while the compressor, if there is a Spool, may be behind. rest
// waits for that, and returns the media type of what was written to dst. rest, or Abort, must be called. It is not for estargz, whose DiffID is known
// last.
func (w *Writer) End() (diffID digest.Digest, ix *Index, rest func() (mediaType string, err error), err error) {
	if w.err != nil {
		return "", nil, nil, w.err
	}
	finish, err := w.end()
	if err != nil {
		w.err = fmt.Errorf("ending layer: %w", err)
		return "", nil, nil, w.err
	}
	w.err = errors.New("the layer is closed")
	if ix = w.ix; ix == nil {
		ix = w.index.ix
	}
	return Sum(w.diffID.Sum(nil)).Digest(), ix, func() (string, error) {
		if err := finish(); err != nil {
			return "", fmt.Errorf("ending layer: %w", err)
		}
		return w.mediaType, nil
	}, nil
}

func (w *Writer) end() (finish func() error, err error) {
	if err := w.tw.Close(); err != nil {
		return nil, err
	}
	if !w.begun && w.mediaType == ocispec.MediaTypeImageLayerGzip && w.c.Level == 0 && w.c.Type != estargzType {
		// Nothing has reached dst: the buffers between hold more than an empty layer.
		w.diffID.Write(make([]byte, 1024))
		blob, err := hex.DecodeString(emptyGzip)
		if err == nil {
			_, err = w.dst.Write(blob)
		}
		return func() error { return nil }, err
	}
	if err := w.buf.Flush(); err != nil {
		return nil, err
	}
	if w.spool != nil {
		w.spool.end()
	}
	return w.comp.Close, nil
}

// Abort ends what is still running; dst is not written to any more when it returns. It may always be deferred.
func (w *Writer) Abort() {
	if w.spool != nil {
		w.spool.abort()
	}
	if z, ok := w.comp.(*estargzWriter); ok {
		z.abort()
	}
}
