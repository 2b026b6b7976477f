package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// upper is the stage with what has been written over it: the merged view that the file operations see, and in the end the
// difference.
type upper struct {
	lower layer.Tree // nil: nothing
	nodes map[string]*node
	// removed are the names that were taken away with all below them. Whatever is made there afterwards hides what lower has.
	removed map[string]bool
	// now is the time that directories of lower get when something is put into them, as in a file system.
	now time.Time
}

// node is one path that was written.
type node struct {
	layer.Entry
	// content is that of a file.
	content content
	// link is equal for the files that are hard links of each other; "" for a file of its own.
	link string
}

func (n *node) item() layer.Item {
	it := layer.Item{Entry: n.Entry}
	if n.Type == layer.File {
		it.Open = n.content.open
	}
	return it
}

func itemsOf(nodes []*node) []layer.Item {
	items := make([]layer.Item, len(nodes))
	for i, n := range nodes {
		items[i] = n.item()
	}
	return items
}

// content is what a file holds.
type content interface {
	open() (io.ReadCloser, error)
	digest(ctx context.Context) (digest.Digest, error)
}

// treeFile is a file of a tree.
type treeFile struct {
	tree layer.Tree
	name string
}

func (f *treeFile) open() (io.ReadCloser, error) { return f.tree.Open(f.name) }
func (f *treeFile) digest(ctx context.Context) (digest.Digest, error) {
	return f.tree.Digest(ctx, f.name)
}

func newUpper(lower layer.Tree, now time.Time) *upper {
	return &upper{lower: lower, nodes: map[string]*node{}, removed: map[string]bool{}, now: now}
}

// lstat returns what is at a path whose parents are no symlinks.
func (u *upper) lstat(name string) (layer.Entry, bool, error) {
	if n, ok := u.nodes[name]; ok {
		return n.Entry, true, nil
	}
	if name == "." {
		return layer.Entry{Path: ".", Type: layer.Dir, Mode: 0o755}, true, nil
	}
	if u.lower == nil || u.hidden(name) {
		return layer.Entry{}, false, nil
	}
	return lookup(u.lower, name)
}

// hidden reports whether what lower has at a path is covered by what was made above it.
func (u *upper) hidden(name string) bool {
	for p := name; p != "."; p = path.Dir(p) {
		if u.removed[p] {
			return true
		}
		if n, ok := u.nodes[p]; ok && n.Type != layer.Dir {
			return true
		}
	}
	return false
}

func lookup(t layer.Tree, name string) (layer.Entry, bool, error) {
	e, err := t.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return layer.Entry{}, false, nil
	case err != nil:
		return layer.Entry{}, false, fmt.Errorf("looking up %q in the stage: %w", "/"+name, err)
	}
	return e, true, nil
}

// resolve follows the symlinks of a path inside the root. What does not exist stays as it is.
func (u *upper) resolve(name string) (string, error) {
	p, err := layer.Resolve(view{u, "."}, name)
	if err != nil {
		return "", fmt.Errorf("resolving %q in the stage: %w", "/"+name, err)
	}
	return p, nil
}

func (u *upper) put(n *node) { u.nodes[n.Path] = n }

// remove takes a path away with all below it.
func (u *upper) remove(name string) {
	for p := range u.nodes {
		if p == name || strings.HasPrefix(p, name+"/") {
			delete(u.nodes, p)
		}
	}
	u.removed[name] = true
}

// changes returns what differs from lower and the directories that lead there, sorted as in a layer.
func (u *upper) changes(ctx context.Context) ([]*node, error) {
	keep := make(map[string]*node, len(u.nodes))
	for p, n := range u.nodes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		same, err := u.same(ctx, n)
		if err != nil {
			return nil, err
		}
		if !same {
			keep[p] = n
		}
	}
	if err := u.addParents(keep); err != nil {
		return nil, err
	}
	joinLinks(keep)
	nodes := make([]*node, 0, len(keep))
	for _, n := range keep {
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, byPath)
	return nodes, nil
}

// same reports whether lower has exactly this. Times of directories do not count, nor fractions of a second, which layers do
// not keep (BuildKit leaves unchanged entries out of a layer by the same comparison, util/overlay).
func (u *upper) same(ctx context.Context, n *node) (bool, error) {
	if u.lower == nil {
		return false, nil
	}
	if u.removed[n.Path] {
		if n.Type == layer.Dir {
			below, ok, err := lookup(u.lower, n.Path)
			if err != nil {
				return false, err
			}
			n.Opaque = ok && below.Type == layer.Dir
		}
		return false, nil
	}
	if u.hidden(path.Dir(n.Path)) {
		return false, nil
	}
	e, ok, err := lookup(u.lower, n.Path)
	if err != nil || !ok {
		return false, err
	}
	if e.Type != n.Type || e.Mode != n.Mode || e.UID != n.UID || e.GID != n.GID || e.Devmajor != n.Devmajor || e.Devminor != n.Devminor ||
		e.Xattrs[capabilityXattr] != n.Xattrs[capabilityXattr] {
		return false, nil
	}
	if n.Type == layer.Dir {
		return true, nil
	}
	if e.Size != n.Size || e.Linkname != n.Linkname || e.ModTime.Unix() != n.ModTime.Unix() {
		return false, nil
	}
	if n.Type != layer.File || n.Size == 0 {
		return true, nil
	}
	return u.sameContent(ctx, n)
}

func (u *upper) sameContent(ctx context.Context, n *node) (bool, error) {
	mine, err := n.content.digest(ctx)
	if err != nil {
		return false, fmt.Errorf("reading the source of %q: %w", "/"+n.Path, err)
	}
	below, err := u.lower.Digest(ctx, n.Path)
	if err != nil {
		return false, fmt.Errorf("reading %q of the stage: %w", "/"+n.Path, err)
	}
	return mine == below, nil
}

// touched returns the directories in which names were made or replaced.
func (u *upper) touched() (map[string]bool, error) {
	dirs := map[string]bool{}
	for p, n := range u.nodes {
		if n.Type == layer.Dir && u.lower != nil {
			e, ok, err := lookup(u.lower, p)
			if err != nil {
				return nil, err
			}
			if ok && e.Type == layer.Dir {
				continue
			}
		}
		dirs[path.Dir(p)] = true
	}
	return dirs, nil
}

// addParents adds the directories above what is kept: as they were written, else as lower has them.
func (u *upper) addParents(keep map[string]*node) error {
	touched, err := u.touched()
	if err != nil {
		return err
	}
	have := make([]string, 0, len(keep))
	for p := range keep {
		have = append(have, p)
	}
	for _, p := range have {
		for d := path.Dir(p); d != "." && keep[d] == nil; d = path.Dir(d) {
			if n, ok := u.nodes[d]; ok {
				keep[d] = n
				continue
			}
			e, ok, err := u.lstat(d)
			if err != nil {
				return err
			}
			if !ok || e.Type != layer.Dir {
				return fmt.Errorf("copying to %q: %q is no directory", "/"+p, "/"+d)
			}
			e.Path, e.Opaque, e.Xattrs = d, false, keptXattrs(e.Xattrs)
			if touched[d] {
				e.ModTime = u.now
			}
			keep[d] = &node{Entry: e}
		}
	}
	return nil
}

// joinLinks makes the first path of each group of hard links the file and the others links to it.
func joinLinks(keep map[string]*node) {
	groups := map[string][]*node{}
	for _, n := range keep {
		if n.link != "" && n.Type == layer.File {
			groups[n.link] = append(groups[n.link], n)
		}
	}
	for _, g := range groups {
		slices.SortFunc(g, byPath)
		for _, n := range g[1:] {
			n.Type, n.Linkname, n.Size, n.Sum = layer.Hardlink, g[0].Path, 0, layer.Sum{}
		}
	}
}

func byPath(a, b *node) int {
	if layer.Less(a.Path, b.Path) {
		return -1
	}
	return 1
}

// view shows a directory of an upper as a Tree for layer.Resolve, which only looks at entries.
type view struct {
	u   *upper
	dir string
}

func (v view) Lstat(name string) (layer.Entry, error) {
	e, ok, err := v.u.lstat(path.Join(v.dir, name))
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	return e, err
}

var errView = errors.New("copy: not shown")

func (view) ReadDir(string) ([]layer.Entry, error)                 { return nil, errView }
func (view) Open(string) (io.ReadCloser, error)                    { return nil, errView }
func (view) Digest(context.Context, string) (digest.Digest, error) { return "", errView }
func (view) LinkID(string) (string, error)                         { return "", nil }

// linkGroup gives the files of one match that are hard links of each other the same key.
type linkGroup struct{ key string }

func (g *linkGroup) of(t layer.Tree, name string) (string, error) {
	id, err := t.LinkID(name)
	if err != nil {
		return "", fmt.Errorf("looking up the links of %q: %w", "/"+name, err)
	}
	if id == "" {
		return "", nil
	}
	return g.key + "\x00" + id, nil
}
