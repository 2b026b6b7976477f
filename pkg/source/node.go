package source

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"path"
	"strconv"
	"syscall"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"golang.org/x/sys/unix"
)

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

// meta is what is known of every name.
type meta struct {
	stat    fileStat
	seconds int64 // of the mtime, which in nanoseconds may not fit
	mode    uint32
	verdict int32 // of the ignore file
	kind    layer.Type
	socket  bool // an empty file to others
	linked  bool // it may have other names
}

// node is one name of the directory, ignored or not, as it was first seen.
type node struct {
	path string
	meta
	sum  layer.Sum  // of the content, where it is known
	dir  *directory // of directories
	rare *rareNode
}

// rareNode is what the entries of links, devices and programs with capabilities have beside.
type rareNode struct {
	link         string
	major, minor uint32
	// capability is the value of that attribute, if there is one.
	capability    string
	hasCapability bool
}

// directory is a directory that has been seen.
type directory struct {
	path string
	meta
	// spans are where all that is in it is kept, sorted by name, once it is listed.
	listed bool
	// shown is, for an ignored directory, whether something below is not: 0 unknown, 1 yes, -1 no.
	shown int8
	spans []span
}

func (d *directory) node() node { return node{path: d.path, meta: d.meta, dir: d} }

// child is the path of a name in the directory.
func (d *directory) child(base string) string {
	if d.path == "." {
		return base
	}
	return d.path + "/" + base
}

// nodeOf makes a node of a stat. A socket, which no layer can hold, is an empty file, as in BuildKit's contexts.
func nodeOf(st *unix.Stat_t, link string) node {
	seconds := int64(st.Mtim.Sec) //nolint:unconvert // differs by architecture
	n := node{meta: meta{stat: statOf(st), seconds: seconds, mode: st.Mode & 0o7777, linked: st.Nlink > 1}}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.kind = layer.File
	case unix.S_IFDIR:
		n.kind = layer.Dir
	case unix.S_IFLNK:
		n.kind, n.mode, n.rare = layer.Symlink, 0o777, &rareNode{link: link}
	case unix.S_IFIFO:
		n.kind = layer.Fifo
	case unix.S_IFCHR:
		n.kind = layer.Char
	case unix.S_IFBLK:
		n.kind = layer.Block
	case unix.S_IFSOCK:
		n.kind, n.socket, n.sum = layer.File, true, sha256.Sum256(nil)
	}
	if n.kind == layer.Char || n.kind == layer.Block {
		dev := uint64(st.Rdev) //nolint:unconvert // differs by architecture
		n.rare = &rareNode{major: unix.Major(dev), minor: unix.Minor(dev)}
	}
	return n
}

// see returns the node of a name in the directory d, which may have been seen before.
func (t *dirTree) see(d *os.File, parent *directory, base string) (node, error) {
	name := parent.child(base)
	if dir, ok := t.dirs[name]; ok {
		return dir.node(), nil
	}
	if n, ok := t.early[name]; ok {
		return *n, nil
	}
	return t.stat(d, parent, base)
}

// stat makes the node of a name in the directory d. One that is a directory is among those that have been seen then.
func (t *dirTree) stat(d *os.File, parent *directory, base string) (node, error) {
	name := parent.child(base)
	verdict := none
	if t.ignore != nil {
		verdict = t.ignore.decide(name, int(parent.verdict))
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return node{}, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	var link string
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		var err error
		if link, err = readlinkat(int(d.Fd()), base); err != nil {
			return node{}, &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
	}
	n := nodeOf(&st, link)
	n.path, n.verdict = name, int32(verdict)
	switch {
	case n.kind == layer.Dir:
		n.dir = &directory{path: name, meta: n.meta}
		t.dirs[name] = n.dir
	case n.kind == layer.File && !t.normal:
		if value, ok := capability(d, base); ok {
			n.rare = &rareNode{capability: value, hasCapability: true}
		}
	}
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

const capabilityAttr = "security.capability"

// capability reads the one extended attribute that layers keep. Where it cannot be read there is none.
func capability(d *os.File, base string) (string, bool) {
	var buf [64]byte
	n, err := unix.Lgetxattr("/proc/self/fd/"+strconv.Itoa(int(d.Fd()))+"/"+base, capabilityAttr, buf[:])
	if err != nil {
		return "", false
	}
	return string(buf[:n]), true
}

// entry is a node as others see it. Everything belongs to root.
func (t *dirTree) entry(n *node) layer.Entry {
	e := layer.Entry{Path: n.path, Type: n.kind, Mode: int64(n.mode), ModTime: time.Unix(n.seconds, n.stat.mtime-n.seconds*1e9)}
	if n.kind == layer.File && !n.socket {
		e.Size = n.stat.size
	}
	if r := n.rare; r != nil {
		e.Linkname, e.Devmajor, e.Devminor = r.link, r.major, r.minor
		if r.hasCapability {
			e.Xattrs = map[string]string{capabilityAttr: r.capability}
		}
	}
	e.Sum = n.sum
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
	return e
}

// info is the stat of a regular file in the form that Digests take.
func (n *node) info() fs.FileInfo {
	st := n.stat
	return fileInfo{path.Base(n.path), &syscall.Stat_t{
		Dev: st.dev, Ino: st.ino, Size: st.size, Mode: syscall.S_IFREG | n.mode,
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
