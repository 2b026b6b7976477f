package copy

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
)

const (
	defaultBytes   = 20 << 30
	defaultEntries = 2_000_000
	// impliedMode is the mode of directories that an archive has files in but no entry for; they belong to root whatever
	// --chown says.
	impliedMode = 0o755
	paxXattr    = "SCHILY.xattr."
)

// unpack extracts m at the destination if it is an archive, else reports false. --chmod does not apply to what is in it.
func (c *copier) unpack(ctx context.Context, s *Source, m match) (bool, error) {
	ok, err := isArchive(s.Tree, m.real)
	if err != nil || !ok {
		return false, err
	}
	dst, err := c.up.resolve(cleanName(c.req.Dest))
	if err != nil {
		return false, err
	}
	if err := c.mkdirAll(dst, 0o755); err != nil {
		return false, err
	}
	x, err := c.extractor(dst)
	if err != nil {
		return false, fmt.Errorf("unpacking %q: %w", m.shown(), err)
	}
	f, err := s.Tree.Open(m.real)
	if err != nil {
		return false, fmt.Errorf("unpacking %q: %w", m.shown(), err)
	}
	defer f.Close()
	if err := x.run(ctx, f); err != nil {
		return false, fmt.Errorf("unpacking %q: %w", m.shown(), err)
	}
	return true, nil
}

// Unpack reads a tar archive, in any compression, and returns what is in it with the owners it says. Nothing is written but files
// without a name, and no entry can be anywhere but below the root.
func Unpack(ctx context.Context, r io.Reader, limits layer.Limits) (*Result, error) {
	req := Request{Limits: limits, Time: time.Unix(0, 0)}
	c := &copier{up: newUpper(nil, req.Time, limits.Temp), req: req, res: &Result{}}
	x, err := c.extractor(".")
	if err == nil {
		x.sum = sha256.New()
		err = x.run(ctx, r)
	}
	if err == nil {
		err = c.finish(ctx)
	}
	if err != nil {
		_ = c.res.Close()
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	return c.res, nil
}

// isArchive reports whether a file starts, once decompressed, with a tar header.
func isArchive(t layer.Tree, name string) (bool, error) {
	f, err := t.Open(name)
	if err != nil {
		return false, fmt.Errorf("opening %q: %w", "/"+name, err)
	}
	defer f.Close()
	r, _, err := layer.Decompress(f)
	if err != nil {
		return false, nil
	}
	defer r.Close()
	_, err = tar.NewReader(r).Next()
	return err == nil, nil
}

// extractor puts the entries of one archive below dest.
type extractor struct {
	*copier
	dest    string
	spool   *spool
	origin  int   // the spool's number
	entries int64 // how many more may come
	files   int64 // how many more bytes of files
	// sum, where set, makes the entries' sums: the archive is a tree of which files are copied.
	sum hash.Hash
}

// extractor makes one with a spool that the result will close.
func (c *copier) extractor(dest string) (*extractor, error) {
	sp, err := newSpool(c.req.Limits.Temp)
	if err != nil {
		return nil, err
	}
	c.res.spools = append(c.res.spools, sp)
	return &extractor{copier: c, dest: dest, spool: sp, origin: c.up.from(sp)}, nil
}

func (x *extractor) run(ctx context.Context, archive io.Reader) error {
	left := cmp.Or(x.req.Limits.Bytes, defaultBytes)
	x.files = left
	x.entries = cmp.Or(x.req.Limits.Entries, defaultEntries)
	r, _, err := layer.Decompress(archive)
	if err != nil {
		return err
	}
	defer r.Close()
	tr := tar.NewReader(layer.Until(ctx, &bounded{r: r, left: left}))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if x.entries--; x.entries < 0 {
			return errors.New("the archive has more entries than allowed")
		}
		if err := x.entry(h, tr); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// entry places one entry of the archive. Its names count from the destination as from a root, and so do the symlinks among its parents,
// those of the archive as those of the stage: nothing leads out (docker's archive package, which BuildKit uses, does a chroot).
func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	if path.Clean(h.Name) == "." { // the destination itself, which keeps what it has
		return nil
	}
	name := cleanName(h.Name)
	dir := x.dest
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the destination cannot be replaced")
		}
		if x.dest == "." {
			return nil
		}
		dir, name = path.Split(x.dest)
		dir = path.Clean(dir)
	} else {
		parent, err := x.parent(path.Dir(name))
		if err != nil {
			return err
		}
		dir, name = path.Join(x.dest, parent), path.Base(name)
	}
	e := layer.Entry{Path: path.Join(dir, name), Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, ModTime: h.ModTime}
	if v, ok := h.PAXRecords[paxXattr+capabilityXattr]; ok {
		e.Xattrs = map[string]string{capabilityXattr: v}
	}
	x.owner.apply(&e)
	at, exists, err := x.up.lstat(e.Path)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return x.link(h, e, exists)
	}
	n := &node{Entry: e}
	if err := x.fill(n, h, content); err != nil {
		return err
	}
	if exists && (at.Type != layer.Dir || n.Type != layer.Dir) {
		if err := x.up.remove(e.Path); err != nil {
			return err
		}
	}
	return x.up.put(n)
}

// fill sets what depends on the type of an entry.
func (x *extractor) fill(n *node, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		n.Type = layer.Dir
	case tar.TypeReg:
		n.Type, n.Size = layer.File, h.Size
		// A sparse file is larger than what is read for it (CVE-2025-58183).
		if x.files -= h.Size; x.files < 0 {
			return errTooLarge
		}
		if x.sum != nil {
			x.sum.Reset()
			r = io.TeeReader(r, x.sum)
		}
		at, err := x.spool.add(r, h.Size)
		if err != nil {
			return err
		}
		n.content = content{origin: x.origin, at: at}
		if x.sum != nil {
			x.sum.Sum(n.Sum[:0])
		}
	case tar.TypeSymlink:
		n.Type, n.Mode, n.Linkname = layer.Symlink, 0o777, h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		n.Type = layer.Block
		if h.Typeflag == tar.TypeChar {
			n.Type = layer.Char
		}
		var err error
		if n.Devmajor, n.Devminor, err = layer.Device(h); err != nil {
			return err
		}
	case tar.TypeFifo:
		n.Type = layer.Fifo
	default:
		return fmt.Errorf("unknown type %q", h.Typeflag)
	}
	return nil
}

// link makes e a hard link of an earlier entry, or of a file of the stage.
func (x *extractor) link(h *tar.Header, e layer.Entry, exists bool) error {
	to := cleanName(h.Linkname)
	dir, err := layer.Resolve(view{x.up, x.dest}, path.Dir(to))
	if err != nil {
		return fmt.Errorf("linking to %q: %w", h.Linkname, err)
	}
	from := path.Join(x.dest, dir, path.Base(to))
	n, err := x.up.nodes.get(from)
	if err == nil && n == nil {
		n, err = x.fromStage(from)
	}
	if err != nil {
		return fmt.Errorf("linking to %q: %w", h.Linkname, err)
	}
	if n.Type == layer.Dir {
		return fmt.Errorf("linking to %q: it is a directory", h.Linkname)
	}
	if n.Path == e.Path {
		return nil
	}
	if below(e.Path, n.Path) {
		return fmt.Errorf("linking to %q: it is in what the link replaces", h.Linkname)
	}
	if exists {
		if err := x.up.remove(e.Path); err != nil {
			return err
		}
	}
	return x.up.join(n, e)
}

// fromStage makes a node of what the stage has, which then becomes part of the layer as a link's other end.
func (x *extractor) fromStage(name string) (*node, error) {
	e, ok, err := x.up.lstat(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("no such file")
	}
	e.Path, e.Xattrs = name, keptXattrs(e.Xattrs)
	n := &node{Entry: e}
	if e.Type == layer.File {
		n.content = content{origin: x.up.stage(), name: name}
	}
	return n, nil
}

// parent returns the directory that a name below the destination stands for, both relative to the destination, and makes the
// directories that the archive has no entries for. A symlink on the way must lead to a directory.
func (x *extractor) parent(name string) (string, error) {
	if name == "." {
		return ".", nil
	}
	dir, err := x.parent(path.Dir(name))
	if err != nil {
		return "", err
	}
	dir = path.Join(dir, path.Base(name))
	e, ok, err := x.up.lstat(path.Join(x.dest, dir))
	if err == nil && ok && e.Type == layer.Symlink {
		if dir, err = layer.Resolve(view{x.up, x.dest}, dir); err != nil {
			return "", err
		}
		if e, ok, err = x.up.lstat(path.Join(x.dest, dir)); err == nil && !ok {
			return "", fmt.Errorf("%q is a symlink to nothing in %q", name, "/"+x.dest)
		}
	}
	switch {
	case err != nil:
		return "", err
	case ok && e.Type != layer.Dir:
		return "", fmt.Errorf("%q is no directory", name)
	case !ok:
		return dir, x.up.put(&node{Entry: layer.Entry{
			Path: path.Join(x.dest, dir), Type: layer.Dir, Mode: impliedMode, ModTime: x.req.Time}})
	}
	return dir, nil
}
