package source

import (
	"crypto/sha256"
	"io/fs"
	"path"
	"slices"
	"strings"
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

// dirNode is one name of the directory, ignored or not. A context may have very many of them: what only few have is in dir and rare.
type dirNode struct {
	path    string
	stat    fileStat
	seconds int64 // of the mtime, which in nanoseconds may not fit
	mode    uint32
	kind    layer.Type
	socket  bool      // an empty file to others
	linked  bool      // it may have other names
	verdict int32     // of the ignore file
	sum     layer.Sum // of the content, where it is known
	dir     *dirList  // of directories
	rare    *rareNode
}

// dirList is what is in a directory.
type dirList struct {
	// children are all there are, by name, once listed.
	listed   bool
	children []*dirNode
	// shown is, for an ignored directory, whether something below is not: 0 unknown, 1 yes, -1 no.
	shown int
}

// rareNode is what the entries of links, devices and programs with capabilities have beside.
type rareNode struct {
	link         string
	major, minor uint32
	xattrs       map[string]string
}

// child finds a name in a listed directory.
func (l *dirList) child(name string) (*dirNode, error) {
	i, ok := slices.BinarySearchFunc(l.children, name, func(n *dirNode, name string) int { return strings.Compare(n.path, name) })
	if !ok {
		return nil, notExist("lstat", name)
	}
	return l.children[i], nil
}

// newNode makes a node of a stat. A socket, which no layer can hold, is an empty file, as in BuildKit's contexts.
func newNode(name string, st *unix.Stat_t, link string) *dirNode {
	seconds := int64(st.Mtim.Sec) //nolint:unconvert // differs by architecture
	n := &dirNode{path: name, stat: statOf(st), seconds: seconds, mode: st.Mode & 0o7777, linked: st.Nlink > 1}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.kind = layer.File
	case unix.S_IFDIR:
		n.kind, n.dir = layer.Dir, &dirList{}
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

// entry is a node as others see it. Everything belongs to root.
func (t *dirTree) entry(n *dirNode) layer.Entry {
	e := layer.Entry{Path: n.path, Type: n.kind, Mode: int64(n.mode), ModTime: time.Unix(n.seconds, n.stat.mtime-n.seconds*1e9)}
	if n.kind == layer.File && !n.socket {
		e.Size = n.stat.size
	}
	if r := n.rare; r != nil {
		e.Linkname, e.Devmajor, e.Devminor, e.Xattrs = r.link, r.major, r.minor, r.xattrs
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
func (n *dirNode) info() fs.FileInfo {
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
