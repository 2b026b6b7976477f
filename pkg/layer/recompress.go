package layer

import (
	"context"
	"fmt"
	"io"
)

// Recompress copies the layer l, whose blob is r, to dst in another compressed form and returns the media type of that. The
// archive stays as it is, byte for byte, whoever wrote it, and so does its DiffID, which is checked.
func Recompress(ctx context.Context, r io.Reader, l Layer, dst io.Writer, c Compression) (mediaType string, err error) {
	if mediaType, err = recompress(ctx, r, l, dst, c); err != nil {
		return "", fmt.Errorf("recompressing layer %s: %w", l.DiffID, err)
	}
	return mediaType, nil
}

func recompress(ctx context.Context, r io.Reader, l Layer, dst io.Writer, c Compression) (string, error) {
	if err := l.DiffID.Validate(); err != nil {
		return "", err
	}
	comp, mediaType, err := newCompressor(dst, c)
	if err != nil {
		return "", err
	}
	s, err := newStream(ctx, r, Limits{}.withDefaults().Bytes)
	if err != nil {
		return "", err
	}
	defer s.Close()
	if _, err := io.Copy(comp, struct{ io.Reader }{s}); err != nil {
		return "", err
	}
	if err := s.verify(l.DiffID); err != nil {
		return "", err
	}
	return mediaType, comp.Close()
}
