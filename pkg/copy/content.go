package copy

import (
	"context"
	"encoding/binary"
	"io"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// node is one path that was written.
type node struct {
	layer.Entry
	// content is that of a file.
	content content
	// link is equal for the names that are hard links of each other; "" for a file of its own.
	link string
}

// content says where what a file holds is: with the name in a tree, or at a place of a spool.
type content struct {
	// origin is the number of the tree or spool, counted from 1; 0 is none.
	origin int
	name   string
	at     int64
}

// origin is what contents are in.
type origin interface {
	open(n *node) (io.ReadCloser, error)
	digest(ctx context.Context, n *node) (digest.Digest, error)
}

// origins are those of one request, by their numbers less one.
type origins []origin

func (os origins) of(n *node) origin { return os[n.content.origin-1] }

func (os origins) item(n *node) layer.Item {
	it := layer.Item{Entry: n.Entry}
	if n.Type == layer.File {
		it.Open = func() (io.ReadCloser, error) { return os.of(n).open(n) }
	}
	return it
}

// treeOrigin is a tree of files.
type treeOrigin struct{ layer.Tree }

func (t treeOrigin) open(n *node) (io.ReadCloser, error) { return t.Open(n.content.name) }
func (t treeOrigin) digest(ctx context.Context, n *node) (digest.Digest, error) {
	return t.Digest(ctx, n.content.name)
}

// note encodes what an entry does not hold: the origin, and the place there; of the name there what does not end as the path does. All the rest is
// the link.
func (n *node) note() []byte {
	c := n.content
	if c.origin == 0 && n.link == "" {
		return nil
	}
	same := 0
	for same < min(len(c.name), len(n.Path)) && c.name[len(c.name)-1-same] == n.Path[len(n.Path)-1-same] {
		same++
	}
	b := make([]byte, 0, 32)
	b = binary.AppendUvarint(b, uint64(c.origin))
	b = binary.AppendUvarint(b, uint64(c.at))
	b = binary.AppendUvarint(b, uint64(same))
	b = binary.AppendUvarint(b, uint64(len(c.name)-same))
	b = append(b, c.name[:len(c.name)-same]...)
	return append(b, n.link...)
}

// nodeOf is the node of an entry and its note.
func nodeOf(e *layer.Entry, note []byte) *node {
	n := &node{Entry: *e}
	if len(note) == 0 {
		return n
	}
	number := func() int64 {
		v, w := binary.Uvarint(note)
		note = note[w:]
		return int64(v)
	}
	n.content.origin, n.content.at = int(number()), number()
	same, rest := number(), number()
	n.content.name = string(note[:rest]) + n.Path[len(n.Path)-int(same):]
	n.link = string(note[rest:])
	return n
}
