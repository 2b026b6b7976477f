package copy

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
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
	sp, err := newSpool(c.req.TempDir)
	if err != nil {
		return false, fmt.Errorf("unpacking %q: %w", m.shown(), err)
	}
	c.res.spools = append(c.res.spools, sp)
	x := &extractor{copier: c, dest: dst, spool: sp, group: m.shown() + "\x00" + dst}
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

// Unpack reads a tar archive, in any compression, and returns what is in it with the owners it says. Nothing is written but one
// file without a name in tempDir, and no entry can be anywhere but below the root.
func Unpack(ctx context.Context, r io.Reader, tempDir string, limits layer.Limits) (*Result, error) {
	sp, err := newSpool(tempDir)
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	res := &Result{spools: []*spool{sp}}
	c := &copier{up: newUpper(nil, time.Unix(0, 0)), req: Request{Limits: limits, Time: time.Unix(0, 0)}}
	x := &extractor{copier: c, dest: ".", spool: sp}
	if err = x.run(ctx, r); err == nil {
		res.Items, err = c.up.items(ctx)
	}
	if err != nil {
		_ = res.Close()
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	return res, nil
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
	group   string
	entries int64 // how many more may come
	files   int64 // how many more bytes of files
	links   int
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
	tr := tar.NewReader(&bounded{r: r, left: left})
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
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

// entry places one entry of the archive. Parents may be symlinks, of the archive or the stage: they are followed inside the root.
func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	name := path.Clean(h.Name)
	target := path.Join("/", x.dest, name)
	if !below(x.dest, target) {
		return errors.New("it would leave the destination")
	}
	if name == "." || target == "/" {
		if h.Typeflag == tar.TypeDir {
			return nil
		}
		return errors.New("the destination cannot be replaced")
	}
	dir, err := x.up.resolve(cleanName(path.Dir(target)))
	if err != nil {
		return err
	}
	if err := x.implied(dir); err != nil {
		return err
	}
	e := layer.Entry{Path: path.Join(dir, path.Base(target)), Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, ModTime: h.ModTime}
	if e.Path == "." {
		return errors.New("the root cannot be replaced")
	}
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
	n := &node{Item: layer.Item{Entry: e}}
	if err := x.fill(n, h, content, target); err != nil {
		return err
	}
	if exists && (at.Type != layer.Dir || n.Type != layer.Dir) {
		x.up.remove(e.Path)
	}
	x.up.put(n)
	return nil
}

// fill sets what depends on the type of an entry.
func (x *extractor) fill(n *node, h *tar.Header, content io.Reader, target string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		n.Type = layer.Dir
	case tar.TypeReg:
		n.Type, n.Size = layer.File, h.Size
		// A sparse file is larger than what is read for it (CVE-2025-58183).
		if x.files -= h.Size; x.files < 0 {
			return errTooLarge
		}
		sec, err := x.spool.add(content, h.Size)
		if err != nil {
			return err
		}
		n.Open = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(sec, 0, sec.Size())), nil }
		n.digest = func() (digest.Digest, error) { return digest.FromReader(io.NewSectionReader(sec, 0, sec.Size())) }
	case tar.TypeSymlink:
		// As in docker's archive package, a link that points above the destination is refused; an absolute one counts from it.
		if !below(x.dest, path.Join(path.Dir(target), h.Linkname)) {
			return fmt.Errorf("the symlink to %q leaves the destination", h.Linkname)
		}
		n.Type, n.Mode, n.Linkname = layer.Symlink, 0o777, h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		n.Type, n.Devmajor, n.Devminor = layer.Block, h.Devmajor, h.Devminor
		if h.Typeflag == tar.TypeChar {
			n.Type = layer.Char
		}
		if n.Type == layer.Char && n.Devmajor == 0 && n.Devminor == 0 {
			return errors.New("a character device 0/0 stands for a removed file in layers")
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
	to := path.Join("/", x.dest, h.Linkname)
	if !below(x.dest, to) {
		return fmt.Errorf("the hard link to %q leaves the destination", h.Linkname)
	}
	dir, err := x.up.resolve(cleanName(path.Dir(to)))
	if err != nil {
		return err
	}
	from := path.Join(dir, path.Base(to))
	n, ok := x.up.nodes[from]
	if !ok {
		if n, err = x.fromStage(from); err != nil {
			return fmt.Errorf("linking to %q: %w", h.Linkname, err)
		}
	}
	if n.Type == layer.Dir {
		return fmt.Errorf("linking to %q: it is a directory", h.Linkname)
	}
	if n.Path == e.Path {
		return nil
	}
	if n.Type == layer.File && n.link == "" {
		x.links++
		n.link = fmt.Sprintf("%s\x00%d", x.group, x.links)
	}
	// One file has one owner: that of the entry read last.
	n.UID, n.GID = e.UID, e.GID
	cp := *n
	cp.Path = e.Path
	if exists {
		x.up.remove(e.Path)
	}
	x.up.put(n)
	x.up.put(&cp)
	return nil
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
	n := &node{Item: layer.Item{Entry: e}}
	if e.Type == layer.File {
		n.Open, n.digest = opener(x.up.lower, name), digestOf(x.up.lower, name)
	}
	return n, nil
}

// implied makes the directories an archive has no entries for.
func (x *extractor) implied(dir string) error {
	e, ok, err := x.up.lstat(dir)
	if err != nil {
		return err
	}
	if ok {
		if e.Type != layer.Dir {
			return fmt.Errorf("%q is no directory", "/"+dir)
		}
		return nil
	}
	if err := x.implied(path.Dir(dir)); err != nil {
		return err
	}
	x.up.put(&node{Item: layer.Item{Entry: layer.Entry{Path: dir, Type: layer.Dir, Mode: impliedMode, ModTime: x.req.Time}}})
	return nil
}

// below reports whether the clean absolute path p is dir (relative, clean) or in it.
func below(dir, p string) bool {
	return dir == "." || p == "/"+dir || strings.HasPrefix(p, "/"+dir+"/")
}

var errTooLarge = errors.New("the archive unpacks to more bytes than allowed")

// bounded fails when more is read than is left.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// spool keeps the content of an archive in a file without a name until the layer is written.
type spool struct {
	f   *os.File
	end int64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "unpack-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &spool{f: f}, nil
}

func (s *spool) add(r io.Reader, size int64) (*io.SectionReader, error) {
	n, err := io.CopyN(s.f, r, size)
	if err != nil {
		return nil, fmt.Errorf("reading %d bytes: %w", size, err)
	}
	sec := io.NewSectionReader(s.f, s.end, n)
	s.end += n
	return sec, nil
}

func (s *spool) close() error { return s.f.Close() }
