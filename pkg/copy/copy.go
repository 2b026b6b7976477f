// Package copy turns COPY and ADD into the entries of a layer: trees of files in, entries out, without a mount and without a
// root filesystem.
//
//	sources ─ match ─► names ─ walk ─► files ─ place over the stage ─► what differs from the stage ─► layer.Item
//
// What is copied where, and with which owner and mode, is what BuildKit's file operations do (solver/llbsolver/file and
// github.com/tonistiigi/fsutil/copy), so that a Dockerfile gives the same tree here and there. Where BuildKit loses
// something in silence (several files that match go to one name, a --chown of a name nobody has) there is a warning here.
package copy

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
)

// Request is one COPY or ADD with its files at hand.
type Request struct {
	// Sources are copied in order.
	Sources []Source
	// Dest is absolute, with ".." resolved; it ends with "/" where the destination must be a directory.
	Dest string
	// Chown ("user[:group]", names or numbers) and Chmod (octal or symbolic) are "" where not given.
	Chown, Chmod string
	// Link makes a layer that does not depend on the stage, unless Chmod is given as well (as in BuildKit).
	Link bool
	// Parents keeps the directories that lead to a source, from its pivot "/./" on.
	Parents bool
	// Exclude are patterns, relative to each match, of what is not copied.
	Exclude []string
	// Stage is the root filesystem as it is before the step; nil is the empty one.
	Stage layer.Tree
	// Time is the mtime of what is created without one of its own.
	Time time.Time
	// Limits bounds what archives unpack to. Its Temp makes the files for archives while they are unpacked, and for what is known of very many files.
	Limits layer.Limits
}

// Source is one thing to copy.
type Source struct {
	Tree layer.Tree
	// Path is a path or a pattern of path.Match in Tree, relative to its root whether it begins with "/" or not; ".." ends at
	// the root.
	Path string
	// Plain says that Path is one name as it stands (a download, a git tree, an inline file): no pattern, and a symlink is
	// copied as such.
	Plain bool
	// Literal says that Path is no pattern; apart from that it is treated as one that matches just this name.
	Literal bool
	// Unpack says that a file that is a tar archive, in any compression, is unpacked at the destination.
	Unpack bool
	// Identity, where set, is what Digest takes for the source in place of its content: what never means other files, while their bytes
	// may differ from one fetch to the next (the .git of a commit).
	Identity string
}

// NewRequest is the request of a planned step. files is the tree of c.From; remote has, for each of c.Remote, the tree that was
// fetched and the name in it ("." for a git repository).
func NewRequest(c *plan.Copy, files layer.Tree, remote []Source) Request {
	r := Request{Dest: c.Dest, Chown: c.Chown, Chmod: c.Chmod, Link: c.Link, Parents: c.Parents, Exclude: c.Exclude}
	local, fetched := c.Add, false
	if c.Unpack != nil {
		local, fetched = *c.Unpack, *c.Unpack
	}
	for _, s := range c.Sources {
		r.Sources = append(r.Sources, Source{Tree: files, Path: s, Unpack: local})
	}
	for i, s := range remote {
		s.Plain = true
		s.Unpack = fetched && i < len(c.Remote) && !c.Remote[i].Git
		r.Sources = append(r.Sources, s)
	}
	for _, f := range c.Inline {
		r.Sources = append(r.Sources, Source{Tree: inline{name: cleanName(f.Name), data: f.Data}, Path: f.Name, Plain: true})
	}
	return r
}

// Independent reports whether the result does not depend on the stage.
func (r Request) Independent() bool { return r.Link && r.Chmod == "" }

// Entries returns what the step adds to the stage.
func Entries(ctx context.Context, r Request) (*Result, error) {
	own, err := r.owner()
	if err != nil {
		return nil, err
	}
	md, err := parseMode(r.Chmod)
	if err != nil {
		return nil, err
	}
	stage := r.Stage
	if r.Independent() {
		stage = nil
	}
	c := &copier{req: r, owner: own, mode: md, up: newUpper(stage, r.Time, r.Limits.Temp), res: &Result{}, written: map[string]string{}}
	if own != nil {
		for _, u := range own.unknown {
			c.res.Warnings = append(c.res.Warnings, fmt.Sprintf("--chown=%s: %s", r.Chown, u))
		}
	}
	err = c.run(ctx)
	if err == nil {
		err = c.finish(ctx)
	}
	if err != nil {
		_ = c.res.Close()
		return nil, err
	}
	return c.res, nil
}

// copier carries out one request over an upper.
type copier struct {
	req   Request
	owner *owner
	mode  mode
	up    *upper
	res   *Result
	// written maps the files that a source put exactly at the destination to that source, to see when another replaces it.
	written map[string]string
}

// finish makes the result of what has been written.
func (c *copier) finish(ctx context.Context) (err error) {
	c.res.nodes, err = c.up.changes(ctx)
	c.res.origins = c.up.origins
	return err
}

func (c *copier) run(ctx context.Context) error {
	for i := range c.req.Sources {
		s := &c.req.Sources[i]
		ms, err := c.req.matches(s)
		if err != nil {
			return err
		}
		tree := c.up.from(treeOrigin{s.Tree})
		if err := ms.each(func(m match) error { return c.match(ctx, s, tree, m) }); err != nil {
			return err
		}
	}
	return nil
}

// match copies one name of a source, whose tree has a number among the origins.
func (c *copier) match(ctx context.Context, s *Source, tree int, m match) error {
	if s.Unpack && m.entry.Type == layer.File {
		if ok, err := c.unpack(ctx, s, m); ok || err != nil {
			return err
		}
	}
	dst, exact, err := c.prepare(s, m)
	if err != nil {
		return err
	}
	if exact && m.entry.Type != layer.Dir {
		if prev, ok := c.written[dst]; ok && prev != m.shown() {
			c.res.Warnings = append(c.res.Warnings, fmt.Sprintf("%q replaces %q at %q, which does not end with \"/\"", m.shown(), prev, "/"+dst))
		}
		c.written[dst] = m.shown()
	}
	from := files{s.Tree, tree, m.shown() + "\x00" + dst}
	return m.walk(ctx, func(f found) error { return c.place(f, dst, from) })
}

// prepare makes the directories that lead to the destination and returns the path that the match becomes; exact says that it is the
// destination and not a name in it.
func (c *copier) prepare(s *Source, m match) (dst string, exact bool, err error) {
	dest := cleanName(c.req.Dest)
	first := dest
	if !wantsDir(c.req.Dest) {
		first = path.Dir(dest)
	}
	if first, err = c.up.resolve(first); err != nil {
		return "", false, err
	}
	if err := c.mkdirAll(first, c.mode.parents()); err != nil {
		return "", false, err
	}
	if dst, err = c.up.resolve(dest); err != nil {
		return "", false, err
	}
	at, exists, err := c.up.lstat(dst)
	if err != nil {
		return "", false, err
	}
	isDir, contents := m.entry.Type == layer.Dir, !s.Plain
	exact = true
	if exists && (isDir && !contents || !isDir && at.Type == layer.Dir) {
		dst, exact = path.Join(dst, path.Base(m.name)), false
	}
	target := path.Dir(dst)
	if contents && isDir && !exists {
		target = dst
	}
	return dst, exact, c.mkdirAll(target, c.mode.parents())
}

// mkdirAll makes a directory and those above it, where missing, with the owner of --chown.
func (c *copier) mkdirAll(name string, perm int64) error {
	e, ok, err := c.up.lstat(name)
	if err != nil {
		return err
	}
	if ok {
		if e.Type != layer.Dir {
			return fmt.Errorf("creating the directory %q: not a directory", "/"+name)
		}
		return nil
	}
	if err := c.mkdirAll(path.Dir(name), perm); err != nil {
		return err
	}
	e = layer.Entry{Path: name, Type: layer.Dir, Mode: perm, ModTime: c.req.Time}
	c.owner.apply(&e)
	return c.up.put(&node{Entry: e})
}

// place puts what was found in a source below (or at) dst.
func (c *copier) place(f found, dst string, from files) error {
	target := f.entry.Path
	if p := path.Join(dst, f.rel); p != target { // else the string that is there is as good
		target = p
	}
	at, exists, err := c.up.lstat(target)
	if err != nil {
		return err
	}
	e := f.entry
	e.Path = target
	e.Xattrs = keptXattrs(e.Xattrs)
	if e.ModTime.IsZero() {
		e.ModTime = c.req.Time
	}
	if e.Type == layer.Dir {
		return c.placeDir(f, e, at, exists)
	}
	if exists && at.Type == layer.Dir {
		return fmt.Errorf("copying %q: cannot replace the directory %q with a file", f.name, "/"+target)
	}
	if e.Type == layer.Char && e.Devmajor == 0 && e.Devminor == 0 {
		return fmt.Errorf("copying %q: a character device 0/0 stands for a removed file in layers", f.name)
	}
	c.owner.apply(&e)
	c.mode.apply(&e)
	n := &node{Entry: e}
	if e.Type == layer.File {
		n.content = content{origin: from.origin, name: f.name}
		if n.link, err = from.link(f.name); err != nil {
			return err
		}
	}
	return c.up.put(n)
}

func (c *copier) placeDir(f found, e, at layer.Entry, exists bool) error {
	if exists && at.Type != layer.Dir {
		return fmt.Errorf("copying %q: cannot copy to non-directory: %q", f.name, "/"+e.Path)
	}
	switch {
	case exists && f.rel == "":
		// The destination itself keeps its owner and mode; only its time becomes the source's.
		at.ModTime = e.ModTime
		e = at
	case exists && f.late:
		at.Mode = e.Mode
		e = at
	default:
		c.owner.apply(&e)
		c.mode.apply(&e)
	}
	e.Opaque = false
	if e.Path == "." {
		return nil
	}
	return c.up.put(&node{Entry: e})
}

// wantsDir reports whether a destination says that it is a directory.
func wantsDir(dest string) bool {
	return dest == "" || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.") || dest == "."
}

// cleanName makes a name of a Tree from a path: relative and clean, never above the root.
func cleanName(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

// keptXattrs are the extended attributes that belong into a layer: file capabilities. Others depend on the machine the context
// is on (security.selinux, user.*), and BuildKit's layers do not hold them either.
func keptXattrs(all map[string]string) map[string]string {
	if v, ok := all[capabilityXattr]; ok {
		return map[string]string{capabilityXattr: v}
	}
	return nil
}

const capabilityXattr = "security.capability"
