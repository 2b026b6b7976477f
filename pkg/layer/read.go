package layer

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"
)

// reader turns the headers of an archive into the entries of a layer: what a sequence of entries, of which a later one may
// replace an earlier one or pass through a symlink of it, leaves in the end. It sees only this layer; what lies below is the
// business of land and of unpacker.
type reader struct {
	lim Limits
	// nodes are the paths that something still concerns: directories, and what is packed has none.
	nodes  map[string]*node
	packed packed
	count  int64
	bytes  int64
	meta   int64
	steps  int64
	names  map[string][]byte

	// lastDir is the parent directory, as the archive wrote it, of the entry before; replaced counts what could make it stale.
	lastDir  string
	lastNode *node
}

// node is one path of the layer being read. A node is alive as long as it is in nodes and its parent is alive: replacing a
// directory drops all that was in it at no cost.
type node struct {
	e      Entry
	parent *node
	// present is false for a directory that is only implied, and for what is only a whiteout.
	present bool
	// white means that the path is removed from the layers below; opaque, what is in the directory.
	white, opaque bool
	// group is shared by the names of a hard link group.
	group *linkGroup
	// disk is where the node lies in the unpacked layer; "" until it does. One that is shadowed would lie there but for another.
	disk     string
	shadowed bool
}

type linkGroup struct{ nodes []*node }

func newReader(lim Limits) *reader {
	root := &node{e: defaultDir(".")}
	r := &reader{lim: lim, nodes: map[string]*node{".": root}, names: map[string][]byte{}}
	r.packed.list.Temp = lim.Temp
	return r
}

// action is what an entry of the archive means for the layer.
type action int

const (
	skipEntry action = iota
	placeEntry
	whiteoutEntry
	opaqueEntry
)

// add takes the next header. The node returned is the one placed, removed or made opaque.
func (r *reader) add(h *tar.Header) (*node, action, error) {
	if r.count++; r.count > r.lim.Entries {
		return nil, 0, fmt.Errorf("more than %d entries: %w", r.lim.Entries, ErrLimit)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil, skipEntry, nil
	}
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont || h.Typeflag == tar.TypeGNUSparse {
		if r.bytes += h.Size; h.Size < 0 || r.bytes < 0 || r.bytes > r.lim.Bytes {
			return nil, 0, fmt.Errorf("files of more than %d bytes: %w", r.lim.Bytes, ErrLimit)
		}
	}
	name := cleanName(h.Name)
	if err := checkName(name); err != nil {
		return nil, 0, err
	}
	dir, base := parentOf(name), baseOf(name)
	if strings.HasPrefix(base, whiteoutPrefix) && name != "." {
		return r.whiteout(dir, base)
	}
	e, err := entryOf(h)
	if err != nil {
		return nil, 0, err
	}
	if r.meta += int64(len(name) + len(e.Linkname)); e.Xattrs != nil {
		for k, v := range e.Xattrs {
			r.meta += int64(len(k) + len(v))
		}
	}
	if r.meta > maxMeta {
		return nil, 0, fmt.Errorf("names and attributes of more than %d bytes: %w", maxMeta, ErrLimit)
	}
	if name == "." {
		if e.Type != Dir {
			return nil, 0, errors.New("the root directory cannot become something else")
		}
		root := r.nodes["."]
		e.Path = "."
		root.e, root.present = e, true
		return root, placeEntry, nil
	}
	parent, err := r.directory(dir)
	if err != nil {
		return nil, 0, err
	}
	if strings.HasPrefix(parent.e.Path, whiteoutMeta) {
		return nil, skipEntry, nil
	}
	n, err := r.place(parent, base, e)
	return n, placeEntry, err
}

// place puts an entry into its directory, over what was there.
func (r *reader) place(parent *node, base string, e Entry) (*node, error) {
	e.Path = join(parent.e.Path, base)
	if len(e.Path) >= maxPath {
		return nil, syscall.ENAMETOOLONG
	}
	old := r.child(parent, e.Path)
	var group *linkGroup
	if e.Type == Hardlink {
		target, err := r.linkTarget(e.Linkname)
		if err != nil {
			return nil, err
		}
		if target == old {
			return nil, errors.New("hard link to itself")
		}
		if target.group == nil {
			target.group = &linkGroup{nodes: []*node{target}}
		}
		group = target.group
		name := e.Path
		e = target.e
		e.Path = name
	}
	if old != nil && e.Type == Dir && (old.e.Type == Dir || !old.present) {
		old.e, old.present = e, true
		return old, nil
	}
	n := &node{e: e, parent: parent, present: true, group: group}
	if group != nil {
		group.nodes = append(group.nodes, n)
	}
	if old != nil {
		n.white = old.white
		r.lastNode = nil
		if old.e.Type == Dir {
			r.packed.drop(e.Path)
		}
	}
	r.nodes[e.Path] = n
	delete(r.names, e.Path)
	return n, nil
}

// linkTarget finds what a hard link names: a name in this layer, whose parent may be a symlink of it.
func (r *reader) linkTarget(linkname string) (*node, error) {
	name := cleanName(linkname)
	if name == "." {
		return nil, errors.New("hard link to the root directory")
	}
	parent, err := r.directory(parentOf(name))
	if err != nil {
		return nil, err
	}
	n := r.child(parent, join(parent.e.Path, baseOf(name)))
	if n == nil || !n.present || n.e.Type == Dir {
		return nil, fmt.Errorf("hard link to %q, which is no file that comes before it in the layer", linkname)
	}
	return n, nil
}

// child returns the living node of a path whose parent is alive, or nil.
func (r *reader) child(parent *node, name string) *node {
	if n := r.node(name); n != nil && n.parent == parent {
		return n
	}
	return nil
}

// node returns the node of a path, which may have died with its parent, or nil.
func (r *reader) node(name string) *node {
	if n := r.nodes[name]; n != nil {
		return n
	}
	e, ok := r.packed.take(name)
	if !ok {
		return nil
	}
	// Directories are never packed, and what is packed goes with its directory.
	n := &node{e: e, parent: r.nodes[parentOf(name)], present: true, disk: name}
	r.nodes[name] = n
	return n
}

// settle packs the node that came last, if it lies where its path says and nothing else is to be known of it than its entry.
func (r *reader) settle(n *node) error {
	plain := (n.e.Type == File || n.e.Type == Symlink) && n.group == nil && !n.white && !n.shadowed
	if !plain || n.disk != "" && n.disk != n.e.Path || !r.packed.follows(n.e.Path) {
		return nil
	}
	delete(r.nodes, n.e.Path)
	return r.packed.list.Add(&n.e, nil)
}

// directory returns the node of a directory of the archive, following the symlinks of the layer and making what is missing.
func (r *reader) directory(name string) (*node, error) {
	if r.lastNode != nil && name == r.lastDir {
		return r.lastNode, nil
	}
	cur, rest := r.nodes["."], name
	for links := 0; rest != ""; {
		var c string
		c, rest, _ = strings.Cut(rest, "/")
		if c == "" || c == "." {
			continue
		}
		if c == ".." {
			if cur.parent != nil {
				cur = cur.parent
			}
			continue
		}
		p := join(cur.e.Path, c)
		n := r.child(cur, p)
		switch {
		case n == nil:
			if err := r.checkImplied(p); err != nil {
				return nil, err
			}
			n = &node{e: defaultDir(p), parent: cur}
			r.nodes[p] = n
			cur = n
		case !n.present || n.e.Type == Dir:
			cur = n
		case n.e.Type == Symlink:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("parent %q: %w", name, syscall.ELOOP)
			}
			if strings.HasPrefix(n.e.Linkname, "/") {
				cur = r.nodes["."]
			}
			rest = n.e.Linkname + "/" + rest
			// Each step through a link costs up to a path of look-ups.
			if r.steps += int64(len(rest)); len(rest) > 2*maxPath || r.steps > 64*maxMeta {
				return nil, fmt.Errorf("parent %.60q...: %w", name, syscall.ENAMETOOLONG)
			}
		default:
			return nil, fmt.Errorf("parent %q: %w", p, syscall.ENOTDIR)
		}
	}
	r.lastDir, r.lastNode = name, cur
	return cur, nil
}

// checkImplied bounds the directories that deep paths make without an entry of their own.
func (r *reader) checkImplied(p string) error {
	if r.meta += int64(len(p)); r.meta > maxMeta {
		return fmt.Errorf("names of more than %d bytes: %w", maxMeta, ErrLimit)
	}
	if len(p) >= maxPath {
		return syscall.ENAMETOOLONG
	}
	return nil
}

// whiteout takes an entry whose name starts with .wh. (image-spec, layer.md); other names with the prefix twice are notes of
// aufs.
func (r *reader) whiteout(dir, base string) (*node, action, error) {
	if strings.HasPrefix(base, whiteoutMeta) && base != whiteoutOpaque {
		return nil, skipEntry, nil
	}
	parent, err := r.directory(dir)
	if err != nil {
		return nil, 0, err
	}
	if base == whiteoutOpaque {
		parent.opaque = true
		return parent, opaqueEntry, nil
	}
	target := base[len(whiteoutPrefix):]
	switch target {
	case "", ".", "..":
		return nil, 0, fmt.Errorf("%q is not the name of a whiteout", base)
	}
	name := join(parent.e.Path, target)
	n := r.child(parent, name)
	if n == nil {
		if err := r.checkImplied(name); err != nil {
			return nil, 0, err
		}
		n = &node{e: defaultDir(name), parent: parent}
		r.nodes[name] = n
	}
	n.white = true
	return n, whiteoutEntry, nil
}

// entryOf reads what an Entry keeps of a header, but for the path.
func entryOf(h *tar.Header) (Entry, error) {
	e := Entry{Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, ModTime: time.Unix(h.ModTime.Unix(), int64(h.ModTime.Nanosecond())).UTC()}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Type, e.Size = File, h.Size
	case tar.TypeDir:
		e.Type = Dir
	case tar.TypeSymlink:
		// Linux gives symlinks no other mode.
		e.Type, e.Linkname, e.Mode = Symlink, h.Linkname, 0o777
	case tar.TypeLink:
		e.Type, e.Linkname = Hardlink, h.Linkname
	case tar.TypeChar:
		e.Type = Char
	case tar.TypeBlock:
		e.Type = Block
	case tar.TypeFifo:
		e.Type = Fifo
	default:
		return e, fmt.Errorf("entries of type %q are not known", h.Typeflag)
	}
	if e.UID < 0 || e.UID > maxID || e.GID < 0 || e.GID > maxID {
		return e, fmt.Errorf("owner %d:%d", e.UID, e.GID)
	}
	if isLink := e.Type == Symlink || e.Type == Hardlink; isLink && (e.Linkname == "" || len(e.Linkname) >= maxPath) {
		return e, fmt.Errorf("link to %.60q", e.Linkname)
	}
	if e.Type == Char || e.Type == Block {
		var err error
		if e.Devmajor, e.Devminor, err = Device(h); err != nil {
			return e, err
		}
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, paxXattr); ok && keptXattr(name) {
			if len(name) > maxName || len(v) > 64<<10 {
				return e, fmt.Errorf("attribute %.60q of %d bytes: %w", name, len(v), ErrLimit)
			}
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	return e, nil
}

// alive reports whether n is still in the layer. memo, which may be nil, remembers directories.
func (r *reader) alive(n *node, memo map[*node]bool) bool {
	if n.parent == nil {
		return true
	}
	if ok, known := memo[n]; known {
		return ok
	}
	ok := r.nodes[n.e.Path] == n && r.alive(n.parent, memo)
	if memo != nil && n.e.Type == Dir {
		memo[n] = ok
	}
	return ok
}

// living returns the nodes that are left at the end, sorted.
func (r *reader) living() []*node {
	memo := map[*node]bool{}
	out := make([]*node, 0, len(r.nodes))
	for _, n := range r.nodes {
		if r.alive(n, memo) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *node) int { return compare(a.e.Path, b.e.Path) })
	return out
}

// index makes the index of what is left.
func (r *reader) index() (*Index, error) {
	living := r.living()
	links := r.links(living)
	b := newIndexBuilder(r.lim.Temp)
	before := func(name string) error {
		for len(living) > 0 && (name == "" || compare(living[0].e.Path, name) < 0) {
			if e, ok := living[0].entry(links); ok {
				if err := b.add(&e); err != nil {
					return err
				}
			}
			living = living[1:]
		}
		return nil
	}
	for e := range r.packed.left() {
		if err := before(e.Path); err != nil {
			return nil, err
		}
		if err := b.add(e); err != nil {
			return nil, err
		}
	}
	if err := before(""); err != nil {
		return nil, err
	}
	for name, content := range r.names {
		if e, ok := b.ix.Lookup(name); ok && e.Type == File {
			b.ix.names[name] = content
		}
	}
	return b.ix, cmp.Or(r.packed.list.Err(), b.ix.Err())
}

// entry is what an index has of a node, if it has anything. links is as reader.links returns it.
func (n *node) entry(links map[*node]*node) (Entry, bool) {
	e := n.e
	switch {
	case n.present && e.Type == Dir:
		e.Opaque = n.opaque || n.white
	case n.present:
		if first := links[n]; first != nil && first != n {
			return Entry{Path: e.Path, Type: Hardlink, Linkname: first.e.Path}, true
		}
	case n.white:
		return Entry{Path: e.Path, Type: Whiteout}, true
	case n.opaque:
		return Entry{Path: e.Path, Type: Whiteout, Opaque: true}, true
	default:
		return Entry{}, false
	}
	return e, true
}

// links returns for every living name of a hard link group the one that stays a file: the first of the archive that is left.
func (r *reader) links(living []*node) map[*node]*node {
	out := map[*node]*node{}
	first := map[*linkGroup]*node{}
	memo := map[*node]bool{}
	for _, n := range living {
		g := n.group
		if g == nil {
			continue
		}
		if first[g] == nil {
			first[g] = g.nodes[slices.IndexFunc(g.nodes, func(o *node) bool { return r.alive(o, memo) })]
		}
		out[n] = first[g]
	}
	return out
}

// Device returns the number of the device that a header of TypeChar or TypeBlock describes. Major and minor have 12 and 20 bits in Linux; the character
// device 0:0 would be a whiteout to overlayfs.
func Device(h *tar.Header) (major, minor uint32, err error) {
	if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
		return 0, 0, fmt.Errorf("device %d:%d", h.Devmajor, h.Devminor)
	}
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		return 0, 0, errors.New("a character device 0:0 stands for a removed file in layers")
	}
	return uint32(h.Devmajor), uint32(h.Devminor), nil
}
