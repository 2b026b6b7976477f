package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strconv"
	"sync"

	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// DirTree is a directory of this machine as a Tree. Nothing outside of it can be reached. Times are cut to seconds, sockets
// are left out, and attributes are those that Diff writes. It is safe for concurrent use.
type DirTree struct {
	mu   sync.Mutex
	dirs dirs
}

// OpenDirTree opens a directory; the tree must be closed.
func OpenDirTree(dir string) (*DirTree, error) {
	fds, err := openDirs(dir)
	if err != nil {
		return nil, err
	}
	return &DirTree{dirs: fds}, nil
}

// Close frees what the tree holds. Files that were opened stay open.
func (t *DirTree) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dirs.close()
	return nil
}

// stat returns an entry and its inode, which is 0 where there is but one name. The lock is held.
func (t *DirTree) stat(name string) (Entry, string, error) {
	if !isClean(name) {
		return Entry{}, "", notExist("lstat", name)
	}
	fd, err := t.dirs.dir(parentOf(name))
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return Entry{}, "", notExist("lstat", name)
	}
	if err != nil {
		return Entry{}, "", err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, baseOf(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Entry{}, "", &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	e, ok := statEntry(name, &st)
	if !ok {
		return Entry{}, "", notExist("lstat", name)
	}
	link := ""
	if e.Type != Dir && st.Nlink > 1 {
		link = strconv.FormatUint(st.Ino, 10)
	}
	switch e.Type {
	case Symlink:
		e.Linkname, err = readlink(fd, baseOf(name))
	case Dir:
		if fd, err = t.dirs.dir(name); err == nil {
			e.Xattrs, _, err = readXattrs(fd)
		}
	case File:
		var f io.Closer
		f, e.Xattrs, err = t.open(name)
		if err == nil {
			f.Close()
		}
	}
	if err != nil {
		return Entry{}, "", fmt.Errorf("reading %q: %w", name, err)
	}
	return e, link, nil
}

func (t *DirTree) open(name string) (io.ReadCloser, map[string]string, error) {
	f, err := t.dirs.openFile(parentOf(name), baseOf(name))
	if err != nil {
		return nil, nil, err
	}
	xattrs, _, err := readXattrs(int(f.Fd()))
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, xattrs, nil
}

// Lstat implements Tree.
func (t *DirTree) Lstat(name string) (Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, _, err := t.stat(name)
	return e, err
}

// ReadDir implements Tree.
func (t *DirTree) ReadDir(name string) iter.Seq2[Entry, error] {
	return layertest.Each(t.readDir(name))
}

func (t *DirTree) readDir(name string) ([]Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	names, err := t.dirs.list(name)
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, base := range names {
		e, _, err := t.stat(join(name, base))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Open implements Tree.
func (t *DirTree) Open(name string) (io.ReadCloser, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !isClean(name) {
		return nil, notExist("open", name)
	}
	return t.dirs.openFile(parentOf(name), baseOf(name))
}

// Digest implements Tree. It reads the file every time.
func (t *DirTree) Digest(ctx context.Context, name string) (digest.Digest, error) {
	f, err := t.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digest.Canonical.FromReader(Until(ctx, f))
}

// LinkID implements Tree.
func (t *DirTree) LinkID(name string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, link, err := t.stat(name)
	return link, err
}
