package layer

import (
	"context"
	"io"
	"slices"
)

// Item is an entry on its way into a layer, with the means to read its content when its turn comes.
type Item struct {
	Entry
	// Open returns the content of a File, exactly Size bytes; nil for every other type and for empty files.
	Open func() (io.ReadCloser, error)
}

// WriteAll writes items in the order of a layer, whatever order they come in, until ctx ends. It adds nothing of its own; of several
// items with one path the last wins. Items is not changed.
func WriteAll(ctx context.Context, w *Writer, items []Item) error {
	order := make([]*Item, len(items))
	for i := range items {
		order[i] = &items[i]
	}
	slices.SortStableFunc(order, func(a, b *Item) int { return compare(a.Path, b.Path) })
	for i, it := range order {
		if i+1 < len(order) && order[i+1].Path == it.Path {
			continue
		}
		if err := WriteItem(ctx, w, *it); err != nil {
			return err
		}
	}
	return nil
}

// WriteItem writes the next item of a layer. Items must come in the order of Less.
func WriteItem(ctx context.Context, w *Writer, it Item) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if it.Type != File || it.Open == nil {
		return w.Add(it.Entry, nil)
	}
	content, err := it.Open()
	if err != nil {
		return err
	}
	defer content.Close()
	return w.Add(it.Entry, Until(ctx, content))
}

// Until reads from r until ctx ends, whose cause is then the error.
func Until(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
