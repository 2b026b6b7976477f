package layer

import (
	"context"
	"fmt"
	"io"
)

// Recompress copies the layer l, whose blob is r, to dst in another compressed form and returns it in that; the digest and size of its Descriptor
// are left to the caller. The archive stays as it is, byte for byte, whoever wrote it, and so does its DiffID, which is checked; but eStargz adds
// to the archive, and makes a layer with another DiffID.
func Recompress(ctx context.Context, r io.Reader, l Layer, dst io.Writer, c Compression) (Layer, error) {
	out, err := recompress(ctx, r, l, dst, c)
	if err != nil {
		return Layer{}, fmt.Errorf("recompressing layer %s: %w", l.DiffID, err)
	}
	return out, nil
}

func recompress(ctx context.Context, r io.Reader, l Layer, dst io.Writer, c Compression) (Layer, error) {
	if err := l.DiffID.Validate(); err != nil {
		return Layer{}, err
	}
	comp, mediaType, err := newCompressor(dst, c)
	if err != nil {
		return Layer{}, err
	}
	seekable, _ := comp.(*estargzWriter)
	if seekable != nil {
		defer seekable.abort()
	}
	s, err := newStream(ctx, r, Limits{}.withDefaults().Bytes)
	if err != nil {
		return Layer{}, err
	}
	defer s.Close()
	if _, err := io.Copy(comp, struct{ io.Reader }{s}); err != nil {
		return Layer{}, err
	}
	if err := s.verify(l.DiffID); err != nil {
		return Layer{}, err
	}
	if err := comp.Close(); err != nil {
		return Layer{}, err
	}
	out := Layer{DiffID: l.DiffID}
	out.Descriptor.MediaType = mediaType
	if seekable != nil {
		out.DiffID, out.Descriptor.Annotations = seekable.diffID, seekable.annotations
	}
	return out, nil
}
