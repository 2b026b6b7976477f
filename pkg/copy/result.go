package copy

import (
	"context"
	"errors"
	"slices"

	"github.com/cairn-build/cairn/pkg/layer"
)

// Result is the content of the new layer: what differs from the stage and the directories that lead there. Nothing has been read of the files yet.
// Close it when the layer has been written.
type Result struct {
	// Warnings are sentences about what may not be meant.
	Warnings []string

	nodes   nodes
	origins origins
	spools  []*spool
}

// Items returns the content, sorted as in a layer. It is for few files: Write needs less memory.
func (r *Result) Items() ([]layer.Item, error) {
	var items []layer.Item
	err := r.nodes.each(func(n *node) error {
		items = append(items, r.origins.item(n))
		return nil
	})
	return items, err
}

// Write writes the content to a layer.
func (r *Result) Write(ctx context.Context, w *layer.Writer) error {
	return r.nodes.each(func(n *node) error { return layer.WriteItem(ctx, w, r.origins.item(n)) })
}

// Close removes what was spooled. It may be called twice.
func (r *Result) Close() error {
	var errs []error
	for _, s := range r.spools {
		errs = append(errs, s.close())
	}
	r.spools = nil
	return errors.Join(errs...)
}

// nodes are those of a layer, sorted. Very many are in a list.
type nodes struct {
	few  []*node
	many *run // nil for few
}

func (ns *nodes) add(n *node) error {
	if ns.many != nil {
		return ns.many.add(n)
	}
	ns.few = append(ns.few, n)
	return nil
}

func (ns *nodes) each(fn func(*node) error) error {
	cs := []*cursor{nodesCursor(ns.few)}
	if ns.many != nil {
		cs = cursorsOf([]*run{ns.many})
	}
	for n, err := range merge(cs) {
		if err == nil {
			err = fn(n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (ns *nodes) len() int {
	if ns.many != nil {
		return ns.many.Len()
	}
	return len(ns.few)
}

// at returns the node at a place, which must not be changed.
func (ns *nodes) at(i int) (*node, error) {
	if ns.many == nil {
		return ns.few[i], nil
	}
	n := nodeOf(ns.many.At(i))
	return n, ns.many.Err()
}

// find returns the place of a path, or where it would be.
func (ns *nodes) find(name string) (int, bool, error) {
	if ns.many != nil {
		i, ok := ns.many.Find(name)
		return i, ok, ns.many.Err()
	}
	i, ok := slices.BinarySearchFunc(ns.few, name, func(n *node, name string) int {
		switch {
		case n.Path == name:
			return 0
		case layer.Less(n.Path, name):
			return -1
		}
		return 1
	})
	return i, ok, nil
}
