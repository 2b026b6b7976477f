package layer

import (
	"errors"
	"io"
)

// Item is an entry on its way into a layer, with the means to read its content when its turn comes.
type Item struct {
	Entry
	// Open returns the content of a File, exactly Size bytes; nil for every other type and for empty files.
	Open func() (io.ReadCloser, error)
}

// WriteAll writes items in the order of a layer, whatever order they come in. It adds nothing of its own; of several items with one
// path the last wins.
func WriteAll(w *Writer, items []Item) error { return errors.New("layer: not written yet") }
