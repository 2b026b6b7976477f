package source

import (
	"cmp"
	"context"
	"crypto/sha256"
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

	mu sync.Mutex
	// nodes are the directories that have been seen, by name, and what else has been seen of directories that are not listed yet.
	nodes map[string]*dirNode
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
	n := newNode(".", &st, "")
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
	return t.entry(n), nil
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
	if parent.dir == nil {
		return nil, notExist("lstat", name)
	}
	if parent.dir.listed {
		return parent.dir.child(name)
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
	entries := make([]layer.Entry, 0, len(n.dir.children))
	for _, c := range n.dir.children {
		ok, err := t.visible(c)
		if err != nil {
			return nil, err
		}
		if ok {
			entries = append(entries, t.entry(c))
		}
	}
	return entries, nil
}

// list fills in the children of a directory.
func (t *dirTree) list(n *dirNode) error {
	if n.dir == nil {
		return &fs.PathError{Op: "readdir", Path: n.path, Err: syscall.ENOTDIR}
	}
	if n.dir.listed {
		return nil
	}
	d, err := t.open(n.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	children := make([]*dirNode, 0, len(names))
	for _, base := range names {
		c, ok := t.nodes[path.Join(n.path, base)]
		if !ok {
			if c, err = t.stat(d, n, base); errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
		}
		children = append(children, c)
	}
	for _, c := range children {
		if c.dir == nil {
			delete(t.nodes, c.path)
		}
	}
	n.dir.children, n.dir.listed = children, true
	return nil
}

// stat makes the node of a name in the directory d.
func (t *dirTree) stat(d *os.File, parent *dirNode, base string) (*dirNode, error) {
	name := path.Join(parent.path, base)
	verdict := none
	if t.ignore != nil {
		verdict = t.ignore.decide(name, int(parent.verdict))
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
	n := newNode(name, &st, link)
	n.verdict = int32(verdict)
	if n.kind == layer.File && !t.normal {
		if x := capability(d, base); x != nil {
			n.rare = &rareNode{xattrs: x}
		}
	}
	t.nodes[name] = n
	return n, nil
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
	if t.ignore == nil || !t.ignore.ignores(int(n.verdict)) {
		return true, nil
	}
	l := n.dir
	if l == nil || !t.ignore.hasExcept {
		return false, nil
	}
	if l.shown == 0 {
		l.shown = -1
		ok, err := t.leads(n)
		if err != nil {
			l.shown = 0
			return false, err
		}
		if ok {
			l.shown = 1
		}
	}
	return l.shown > 0, nil
}

// leads reports whether something in an ignored directory is visible.
func (t *dirTree) leads(n *dirNode) (bool, error) {
	if !t.ignore.mayInclude(n.path) {
		return false, nil
	}
	if err := t.list(n); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return false, nil // it was to be ignored
		}
		return false, err
	}
	for _, c := range n.dir.children {
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
	if err != nil || !t.ignore.ignores(int(n.verdict)) {
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
	if n.kind != layer.File {
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
	sum, fi := n.sum, n.info()
	t.mu.Unlock()
	if sum != (layer.Sum{}) {
		return sum.Digest(), nil
	}
	if t.digests != nil && n.kind == layer.File {
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
	h := sha256.New()
	buf := t.buffers.get()
	defer t.buffers.put(buf)
	if err := f.copyTo(ctx, h, *buf); err != nil {
		return "", err
	}
	d := digest.NewDigest(digest.SHA256, h)
	t.remember(n, d)
	if t.digests != nil {
		t.digests.Put(name, fi, d)
	}
	return d, nil
}

func (t *dirTree) remember(n *dirNode, d digest.Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.sum = layer.SumOf(d)
}

// LinkID implements layer.Tree.
func (t *dirTree) LinkID(name string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.lookup(name)
	if err != nil {
		return "", err
	}
	if n.kind != layer.File || !n.linked {
		return "", nil
	}
	return strconv.FormatUint(n.stat.dev, 36) + ":" + strconv.FormatUint(n.stat.ino, 36), nil
}

var _ layer.Tree = (*dirTree)(nil)
