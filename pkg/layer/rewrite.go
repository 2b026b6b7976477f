package layer

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Rewrite copies the layer l, whose blob is r, to w with the times of all entries bounded by w.Clamp, as BuildKit's
// rewrite-timestamp does (util/converter; it leaves the layers of the base image alone). Nothing else of the archive changes
// but what an encoder decides; its order stays. r is checked against l.DiffID. Nothing must have been added to w, and
// nothing can be: close it next.
func Rewrite(ctx context.Context, r io.Reader, l Layer, w *Writer) error {
	if w.err == nil {
		if err := rewrite(ctx, r, l, w); err != nil {
			w.err = fmt.Errorf("rewriting layer %s: %w", l.DiffID, err)
		}
	}
	return w.err
}

func rewrite(ctx context.Context, r io.Reader, l Layer, w *Writer) error {
	if w.begun || w.ix != nil {
		return fmt.Errorf("the new layer has entries already")
	}
	rd := newReader(Limits{Temp: w.Temp}.withDefaults())
	err := readLayer(ctx, r, l, rd, func(h *tar.Header, n *node, content io.Reader) error {
		w.begun = true
		clampHeader(h, w.Clamp)
		if n != nil {
			n.e.ModTime = time.Unix(h.ModTime.Unix(), int64(h.ModTime.Nanosecond())).UTC()
		}
		if err := w.tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(w.tw, content)
		return err
	})
	if err != nil {
		return err
	}
	w.ix, err = rd.index()
	return err
}

// clampHeader bounds the times of a header, in place. A sparse file becomes a plain one: archive/tar cannot write the former.
func clampHeader(h *tar.Header, limit *time.Time) {
	if h.Typeflag == tar.TypeGNUSparse {
		h.Typeflag, h.Format = tar.TypeReg, tar.FormatUnknown
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			delete(h.PAXRecords, k)
		}
	}
	if limit == nil {
		return
	}
	for _, t := range []*time.Time{&h.ModTime, &h.AccessTime, &h.ChangeTime} {
		if t.After(*limit) {
			*t = *limit
		}
	}
}
