// Package layer is the only code that reads and writes the tar streams of image layers.
//
// A layer is the difference between two root filesystems: a tar archive of the entries that were added or changed and
// of whiteouts for those that were removed (OCI image-spec, layer.md). Its identity is the DiffID, the digest of the
// uncompressed archive. What a layer contains can be asked without unpacking it: its Index lists every entry.
//
//	upper directory ─ Diff ─► Writer ─► tar ─► DiffID, compressor, Index        (a layer is born)
//	blob ─ decompress ─ verify ─ Unpack ─► directory in overlay form + Index    (a layer is applied)
package layer

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer names one layer of an image: what it contains (DiffID), one compressed form of it (Descriptor), and where that
// form was last seen. It is a value; the bytes may be held locally, or only be known to exist in a registry.
type Layer struct {
	// DiffID is the digest of the uncompressed tar stream.
	DiffID digest.Digest `json:"diffID"`
	// Descriptor is the compressed blob: media type, digest and size in bytes.
	Descriptor ocispec.Descriptor `json:"descriptor"`
	// Origin is the repository the blob can be fetched from and mounted across from ("registry.example/library/debian"),
	// empty when it was made here and never pushed.
	Origin string `json:"origin,omitempty"`
}

// Type is the kind of an Entry.
type Type byte

// The kinds of entries. Hardlink names another path of the same layer; Whiteout removes the path from the layers below.
const (
	File     Type = 'f'
	Dir      Type = 'd'
	Symlink  Type = 'l'
	Hardlink Type = 'h'
	Char     Type = 'c'
	Block    Type = 'b'
	Fifo     Type = 'p'
	Whiteout Type = 'w'
)

// Entry is one path of a layer, or of a tree of files from which a layer will be made.
type Entry struct {
	// Path is slash-separated, relative to the root and clean: "etc/passwd"; "." is the root itself.
	Path string
	Type Type
	// Opaque marks a directory that hides the directory of the same path in the layers below.
	Opaque bool
	// Mode holds the permission bits with setuid, setgid and sticky (07777), as in a tar header.
	Mode     int64
	UID, GID int
	// Size is the length in bytes of a regular file.
	Size    int64
	ModTime time.Time
	// Linkname is the target of a Symlink as written, or the Path of the entry that a Hardlink names.
	Linkname           string
	Devmajor, Devminor uint32
	// Xattrs holds extended attributes under their full names ("security.capability"), values as raw bytes.
	Xattrs map[string]string
	// Sum is of a regular file's content; zero where it has not been computed.
	Sum Sum
}

// Tree is a read-only tree of files, seen without a mount: a build context, or a stack of layers. Names are relative and clean
// as Entry.Path is; symlinks are never followed (Resolve does that, inside the tree). A missing name is an error for
// which errors.Is(err, fs.ErrNotExist) holds.
type Tree interface {
	// Lstat returns the entry of one name. It is never a Whiteout; a Hardlink is returned as the File it names with Path set
	// to name.
	Lstat(name string) (Entry, error)
	// ReadDir yields the entries of a directory sorted by name, of which there may be very many. An error is the last that it yields.
	ReadDir(name string) iter.Seq2[Entry, error]
	// Open returns the content of a regular file.
	Open(name string) (io.ReadCloser, error)
	// Digest returns the digest of a regular file's content. It may be remembered from an earlier read; else the file is read, until ctx ends.
	Digest(ctx context.Context, name string) (digest.Digest, error)
	// LinkID returns a value that is equal for names of one tree that are hard links of each other, and "" for a file with
	// one name.
	LinkID(name string) (string, error)
}
