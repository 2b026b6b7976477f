package source

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Digests remembers the digests of the files below one directory across builds, by name and stat. It is safe for concurrent use;
// *cache.Files is one.
type Digests interface {
	// Digest returns the digest of the file at path, if one is remembered for exactly this stat.
	Digest(path string, fi fs.FileInfo) (digest.Digest, bool)
	// Put remembers a digest. fi was taken before the file was read.
	Put(path string, fi fs.FileInfo, d digest.Digest)
	// Save is called once, when the directory is closed.
	Save() error
}

// fileStat is what a file is known by while the tree is open. Times are in nanoseconds.
type fileStat struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64
}

func statOf(st *unix.Stat_t) fileStat {
	dev := uint64(st.Dev) //nolint:unconvert // differs by architecture
	return fileStat{dev: dev, ino: st.Ino, size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano()}
}

// dirTree shows a directory as a tree. Every name is opened from the directory's descriptor without following a symlink, so
// nothing outside can be reached whatever the directory contains or becomes. What has been seen once stays as it was: a file
// that changes afterwards is an error when it is read.
type dirTree struct {
	path    string // absolute
	root    *os.File
	ignore  *Ignore
	digests Digests
	buffers buffers
	// normal gives files and directories the modes of a git checkout, 0644 and 0755; mtime, where it is set, replaces the time
	// of everything.
	normal bool
	mtime  time.Time

	mu    sync.Mutex
	nodes map[string]*dirNode // by name
}

// dirNode is one name of the directory, ignored or not.
type dirNode struct {
	entry   layer.Entry
	stat    fileStat
	socket  bool // an empty file to others
	links   uint64
	verdict int // of the ignore file
	// children are all there are, by name, once listed.
	listed   bool
	children []*dirNode
	// shown is, for an ignored directory, whether something below is not: 0 unknown, 1 yes, -1 no.
	shown int
}

func newDirTree(dir string) (*dirTree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(abs, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return dirTreeOf(abs, f)
}

// dirTreeOf is the tree of an open directory, which it takes over.
func dirTreeOf(abs string, f *os.File) (*dirTree, error) {
	t := &dirTree{path: abs, root: f}
	if err := t.reset(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return t, nil
}

// reset forgets what has been seen.
func (t *dirTree) reset() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(t.root.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: t.path, Err: err}
	}
	n := t.node(".", &st, "")
	n.verdict = none
	t.nodes = map[string]*dirNode{".": n}
	return nil
}

// Close saves the digests and closes the directory.
func (t *dirTree) Close() error {
	var err error
	if t.digests != nil {
		err = t.digests.Save()
	}
	return errors.Join(err, t.root.Close())
}

// open opens a name below the root; no component may be a symlink.
func (t *dirTree) open(name string, flags int) (*os.File, error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NOCTTY // with O_PATH openat2 refuses it
	}
	fd, err := openBeneath(int(t.root.Fd()), name, flags)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openBeneath(root int, name string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := retry(func() (int, error) { return unix.Openat2(root, name, &how) })
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fd, err
	}
	// Before Linux 5.6, or where a seccomp filter does not know the call: one component at a time.
	parts := strings.Split(name, "/")
	dir := root
	for i, p := range parts {
		if p == ".." {
			return -1, unix.EXDEV
		}
		f := flags
		if i < len(parts)-1 {
			f = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		fd, err = retry(func() (int, error) { return unix.Openat(dir, p, f, 0) })
		if dir != root {
			_ = unix.Close(dir)
		}
		if err != nil {
			return -1, err
		}
		dir = fd
	}
	return fd, nil
}

// retry repeats a call that a signal interrupted, and a few times one that a rename elsewhere disturbed (openat2(2), EAGAIN).
func retry(f func() (int, error)) (int, error) {
	for again := 0; ; {
		n, err := f()
		if errors.Is(err, unix.EAGAIN) && again < 32 {
			again++
			continue
		}
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// Lstat implements layer.Tree.
func (t *dirTree) Lstat(name string) (layer.Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.lookup(name)
	if err != nil {
		return layer.Entry{}, err
	}
	if ok, err := t.visible(n); err != nil || !ok {
		return layer.Entry{}, cmp.Or(err, notExist("lstat", name))
	}
	return n.entry, nil
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// lookup returns the node of a name, ignored or not.
func (t *dirTree) lookup(name string) (*dirNode, error) {
	if n, ok := t.nodes[name]; ok {
		return n, nil
	}
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrInvalid}
	}
	parent, err := t.lookup(path.Dir(name))
	if err != nil {
		return nil, err
	}
	if parent.entry.Type != layer.Dir || parent.listed {
		return nil, notExist("lstat", name)
	}
	d, err := t.open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return t.stat(d, parent, path.Base(name))
}

// ReadDir implements layer.Tree.
func (t *dirTree) ReadDir(name string) ([]layer.Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.lookup(name)
	if err != nil {
		return nil, err
	}
	if err := t.list(n); err != nil {
		return nil, err
	}
	entries := make([]layer.Entry, 0, len(n.children))
	for _, c := range n.children {
		ok, err := t.visible(c)
		if err != nil {
			return nil, err
		}
		if ok {
			entries = append(entries, c.entry)
		}
	}
	return entries, nil
}

// list fills in the children of a directory.
func (t *dirTree) list(n *dirNode) error {
	if n.listed {
		return nil
	}
	if n.entry.Type != layer.Dir {
		return &fs.PathError{Op: "readdir", Path: n.entry.Path, Err: syscall.ENOTDIR}
	}
	d, err := t.open(n.entry.Path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, base := range names {
		c, ok := t.nodes[path.Join(n.entry.Path, base)]
		if !ok {
			if c, err = t.stat(d, n, base); errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
		}
		n.children = append(n.children, c)
	}
	n.listed = true
	return nil
}

// stat makes the node of a name in the directory d.
func (t *dirTree) stat(d *os.File, parent *dirNode, base string) (*dirNode, error) {
	name := path.Join(parent.entry.Path, base)
	verdict := none
	if t.ignore != nil {
		verdict = t.ignore.decide(name, parent.verdict)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	var link string
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		var err error
		if link, err = readlinkat(int(d.Fd()), base); err != nil {
			return nil, &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
	}
	n := t.node(name, &st, link)
	n.verdict = verdict
	if n.entry.Type == layer.File && !t.normal {
		n.entry.Xattrs = capability(d, base)
	}
	t.nodes[name] = n
	return n, nil
}

// node makes a node of a stat. Everything belongs to root, and a socket, which no layer can hold, is an empty file, as in BuildKit's
// contexts.
func (t *dirTree) node(name string, st *unix.Stat_t, link string) *dirNode {
	n := &dirNode{
		entry: layer.Entry{Path: name, Mode: int64(st.Mode & 0o7777), ModTime: time.Unix(st.Mtim.Unix()), Linkname: link},
		stat:  statOf(st),
		links: uint64(st.Nlink), //nolint:unconvert // the same
	}
	e := &n.entry
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = layer.File, st.Size
	case unix.S_IFDIR:
		e.Type = layer.Dir
	case unix.S_IFLNK:
		e.Type, e.Mode = layer.Symlink, 0o777
	case unix.S_IFIFO:
		e.Type = layer.Fifo
	case unix.S_IFCHR:
		e.Type = layer.Char
	case unix.S_IFBLK:
		e.Type = layer.Block
	case unix.S_IFSOCK:
		e.Type, e.Digest, n.socket = layer.File, digest.FromString(""), true
	}
	if e.Type == layer.Char || e.Type == layer.Block {
		dev := uint64(st.Rdev) //nolint:unconvert // differs by architecture
		e.Devmajor, e.Devminor = int64(unix.Major(dev)), int64(unix.Minor(dev))
	}
	if t.normal {
		switch {
		case e.Type == layer.Dir, e.Type == layer.File && e.Mode&0o111 != 0:
			e.Mode = 0o755
		case e.Type == layer.File:
			e.Mode = 0o644
		}
	}
	if !t.mtime.IsZero() {
		e.ModTime = t.mtime
	}
	return n
}

func readlinkat(dir int, base string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dir, base, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// capability reads the one extended attribute that layers keep. Where it cannot be read there is none.
func capability(d *os.File, base string) map[string]string {
	const attr = "security.capability"
	var buf [64]byte
	n, err := unix.Lgetxattr("/proc/self/fd/"+strconv.Itoa(int(d.Fd()))+"/"+base, attr, buf[:])
	if err != nil {
		return nil
	}
	return map[string]string{attr: string(buf[:n])}
}

// visible reports whether a node is not ignored, or leads to something that is not.
func (t *dirTree) visible(n *dirNode) (bool, error) {
	if t.ignore == nil || !t.ignore.ignores(n.verdict) {
		return true, nil
	}
	if n.entry.Type != layer.Dir || !t.ignore.hasExcept {
		return false, nil
	}
	if n.shown == 0 {
		n.shown = -1
		ok, err := t.leads(n)
		if err != nil {
			n.shown = 0
			return false, err
		}
		if ok {
			n.shown = 1
		}
	}
	return n.shown > 0, nil
}

// leads reports whether something in an ignored directory is visible.
func (t *dirTree) leads(n *dirNode) (bool, error) {
	if !t.ignore.mayInclude(n.entry.Path) {
		return false, nil
	}
	if err := t.list(n); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return false, nil // it was to be ignored
		}
		return false, err
	}
	for _, c := range n.children {
		if ok, err := t.visible(c); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// Ignored reports whether the ignore file hides a name that is there.
func (t *dirTree) Ignored(name string) (by string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ignore == nil {
		return "", false
	}
	n, err := t.lookup(name)
	if err != nil || !t.ignore.ignores(n.verdict) {
		return "", false
	}
	return t.ignore.name, true
}

// Open implements layer.Tree. The content read is that of the file as it was first seen, or reading fails.
func (t *dirTree) Open(name string) (io.ReadCloser, error) {
	n, f, err := t.openFile(name)
	if err != nil {
		return nil, err
	}
	if n.socket {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return f, nil
}

// openFile opens a regular file; a socket, which is an empty one, has nothing to open.
func (t *dirTree) openFile(name string) (*dirNode, *checkedFile, error) {
	t.mu.Lock()
	n, err := t.lookup(name)
	var ok bool
	if err == nil {
		ok, err = t.visible(n)
	}
	t.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, notExist("open", name)
	}
	if n.entry.Type != layer.File {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if n.socket {
		return n, nil, nil
	}
	// Without O_NONBLOCK a FIFO that took the file's place would hang the build.
	fd, err := openBeneath(int(t.root.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NOCTTY)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	c := &checkedFile{fd: fd, name: name, want: n.stat}
	if err := c.check(); err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return n, c, nil
}

// Digest implements layer.Tree.
func (t *dirTree) Digest(ctx context.Context, name string) (digest.Digest, error) {
	t.mu.Lock()
	n, err := t.lookup(name)
	if err != nil {
		t.mu.Unlock()
		return "", err
	}
	known, fi := n.entry.Digest, n.info()
	t.mu.Unlock()
	if known != "" {
		return known, nil
	}
	if t.digests != nil && n.entry.Type == layer.File {
		if d, ok := t.digests.Digest(name, fi); ok {
			t.remember(n, d)
			return d, nil
		}
	}
	_, f, err := t.openFile(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := digest.Canonical.Digester()
	buf := t.buffers.get()
	defer t.buffers.put(buf)
	if err := f.copyTo(ctx, h.Hash(), *buf); err != nil {
		return "", err
	}
	d := h.Digest()
	t.remember(n, d)
	if t.digests != nil {
		t.digests.Put(name, fi, d)
	}
	return d, nil
}

func (t *dirTree) remember(n *dirNode, d digest.Digest) {
	t.mu.Lock()
	n.entry.Digest = d
	t.mu.Unlock()
}

// info is the stat of a regular file in the form that Digests take.
func (n *dirNode) info() fs.FileInfo {
	st := n.stat
	return fileInfo{path.Base(n.entry.Path), &syscall.Stat_t{
		Dev: st.dev, Ino: st.ino, Size: st.size, Mode: syscall.S_IFREG | uint32(n.entry.Mode),
		Mtim: syscall.NsecToTimespec(st.mtime), Ctim: syscall.NsecToTimespec(st.ctime),
	}}
}

// fileInfo is the fs.FileInfo of a stat of a regular file.
type fileInfo struct {
	name string
	st   *syscall.Stat_t
}

func (f fileInfo) Name() string       { return f.name }
func (f fileInfo) Size() int64        { return f.st.Size }
func (f fileInfo) Mode() fs.FileMode  { return fs.FileMode(f.st.Mode & 0o777) }
func (f fileInfo) ModTime() time.Time { return time.Unix(f.st.Mtim.Unix()) }
func (f fileInfo) IsDir() bool        { return false }
func (f fileInfo) Sys() any           { return f.st }

// LinkID implements layer.Tree.
func (t *dirTree) LinkID(name string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.lookup(name)
	if err != nil {
		return "", err
	}
	if n.entry.Type != layer.File || n.links < 2 {
		return "", nil
	}
	return strconv.FormatUint(n.stat.dev, 36) + ":" + strconv.FormatUint(n.stat.ino, 36), nil
}

var _ layer.Tree = (*dirTree)(nil)
