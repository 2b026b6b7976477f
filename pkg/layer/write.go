package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"
)

// OpenFunc opens the file name of the n-th layer of a stack.
type OpenFunc func(n int, name string) (io.ReadCloser, error)

// Compression is how a layer's blob is compressed.
type Compression struct {
	// Type is "gzip" (the default), "zstd", "estargz" or "uncompressed". Level is the codec's (gzip and estargz 1-9, zstd 1-22); 0 is its default.
	Type  string
	Level int

	codecs *codecs
}

// Reusing returns c with codecs of its own, which are kept from one layer to the next: making one costs more than compressing a small layer. It is
// for who writes many layers, also at the same time. The bytes are the same.
func (c Compression) Reusing() Compression {
	c.codecs = &codecs{}
	return c
}

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
	paxXattr       = "SCHILY.xattr."
	copyBuffer     = 256 << 10
	maxID          = math.MaxUint32 - 1
)

// emptyGzip is the one form of a layer without entries, 1024 zero bytes, that Docker and BuildKit make: registries have it
// already (sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1).
const emptyGzip = "1f8b08000000000000ff621805a360148c5800080000ffff2eafb5ef00040000"

// Writer writes one layer: entries in, tar → DiffID → compressor → dst out, in one pass and constant memory (but for the
// index). The same entries give the same bytes everywhere: one order (parents first, then by path), one encoding, times cut
// to seconds.
//
// Headers are those of BuildKit's layers (containerd pkg/archive): USTAR, or PAX where a value needs it; no user and group
// names; no access and change times; whiteouts are empty files .wh.NAME of mode 0, root's, of time 0.
//
// A Writer that is not closed needs no cleaning up, but for Abort where Spool is set or the compression is estargz. After an error every call fails
// with it.
type Writer struct {
	// Clamp, if not nil, is the latest time an entry may have (SOURCE_DATE_EPOCH): those newer get it. Set it before the
	// first Add.
	Clamp *time.Time
	// Forbidden are byte sequences that must not be in the layer: not in the content of a file, nor in a name, the target of a link or an
	// attribute. Adding an entry that has one fails with a *ForbiddenError. Set it before the first Add.
	Forbidden [][]byte
	// Temp makes the nameless file in which the index of very many entries lies; nil makes it in the system's directory for temporary files. Set it before
	// the first Add.
	Temp func() (*os.File, error)
	// Spool, if not nil, makes a nameless file. Then Add does not wait for the compressor: what that has not taken yet is kept in memory, and what is
	// more than a few megabytes in the file. Set it before the first Add.
	Spool func() (*os.File, error)

	dst       io.Writer
	c         Compression
	mediaType string
	tw        *tar.Writer
	buf       *bufio.Writer
	diffID    hash.Hash
	comp      io.WriteCloser
	spool     *spool // nil if there is none
	content   hash.Hash
	chunk     []byte
	search    *searcher // nil if nothing is forbidden

	index *indexBuilder
	ix    *Index // of a layer that was rewritten
	begun bool
	err   error
}

// NewWriter starts a layer whose compressed form goes to dst.
func NewWriter(dst io.Writer, c Compression) (*Writer, error) {
	comp, mediaType, err := newCompressor(dst, c)
	if err != nil {
		return nil, err
	}
	w := &Writer{dst: dst, c: c, comp: comp, mediaType: mediaType, diffID: sha256.New(), content: sha256.New()}
	w.index = newIndexBuilder(nil)
	w.buf = bufio.NewWriterSize(archive{w}, 64<<10)
	w.tw = tar.NewWriter(w.buf)
	return w, nil
}

// archive takes the tar of a Writer.
type archive struct{ w *Writer }

func (a archive) Write(p []byte) (int, error) {
	a.w.diffID.Write(p)
	return a.w.comp.Write(p)
}

// Add appends one entry; content is read for a File and must be exactly Size bytes. Entries must come in the order of Less,
// and a Hardlink, which needs no other field than Linkname, after the File it names. Names that a layer cannot have, those
// of whiteouts, are an error.
func (w *Writer) Add(e Entry, content io.Reader) error {
	if w.err == nil {
		if err := w.add(e, content); err != nil {
			w.err = fmt.Errorf("writing layer entry %q: %w", e.Path, err)
		}
	}
	return w.err
}

func (w *Writer) add(e Entry, content io.Reader) error {
	if err := w.check(&e); err != nil {
		return err
	}
	if !w.begun && len(w.Forbidden) > 0 {
		w.search = newSearcher(w.Forbidden)
	}
	if !w.begun && w.Spool != nil {
		w.spool = newSpool(w.comp, w.Spool)
		w.comp = w.spool
	}
	if !w.begun {
		w.index.ix.list.Temp = w.Temp
	}
	w.begun = true
	if w.search != nil {
		if err := w.search.entry(&e); err != nil {
			return err
		}
	}
	e.ModTime = w.time(e.ModTime)
	if e.Type == Symlink {
		e.Mode = 0o777
	}
	if e.Type == Hardlink {
		// Appliers give the file what the header of its last name says.
		f, ok := w.index.ix.Lookup(e.Linkname)
		if !ok {
			return cmp.Or(w.index.ix.Err(), fmt.Errorf("the file %q is gone", e.Linkname))
		}
		e.Mode, e.UID, e.GID, e.ModTime, e.Xattrs, e.Size = f.Mode, f.UID, f.GID, f.ModTime, f.Xattrs, 0
	}
	if err := w.tw.WriteHeader(header(&e)); err != nil {
		return err
	}
	if e.Type == File {
		sum, kept, err := w.copy(&e, content)
		if err != nil {
			return err
		}
		if e.Sum != (Sum{}) && e.Sum != sum {
			return fmt.Errorf("content has digest %s, not %s: it changed meanwhile", sum.Digest(), e.Sum.Digest())
		}
		e.Sum = sum
		if kept != nil {
			w.index.ix.names[e.Path] = kept
		}
	}
	if e.Type == Dir && e.Opaque {
		if err := w.tw.WriteHeader(whiteoutHeader(join(e.Path, whiteoutOpaque))); err != nil {
			return err
		}
	}
	e = indexed(e)
	return w.index.add(&e)
}

// time is t as a layer has it.
func (w *Writer) time(t time.Time) time.Time {
	if t.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	if w.Clamp != nil && t.After(*w.Clamp) {
		t = *w.Clamp
	}
	return time.Unix(t.Unix(), 0).UTC()
}

// check refuses entries that would make a layer nobody can apply, or one that means something else.
func (w *Writer) check(e *Entry) error {
	base := path.Base(e.Path)
	switch {
	case !isClean(e.Path):
		return errors.New("the path is not clean")
	case strings.HasPrefix(base, whiteoutPrefix):
		return errors.New("the name is that of a whiteout in a layer, no file can have it")
	case e.Path == "." && e.Type != Dir && (e.Type != Whiteout || !e.Opaque):
		return errors.New("the root can only be a directory")
	case e.Mode < 0 || e.Mode > 0o7777:
		return fmt.Errorf("mode %#o", e.Mode)
	case e.UID < 0 || e.UID > maxID || e.GID < 0 || e.GID > maxID:
		return fmt.Errorf("owner %d:%d", e.UID, e.GID)
	case e.Size < 0:
		return fmt.Errorf("size %d", e.Size)
	case w.ix != nil:
		return errors.New("the layer is a rewritten one")
	case w.index.ix.Len() > 0 && !Less(w.index.ix.list.last, e.Path):
		return fmt.Errorf("comes after %q, out of order", w.index.ix.list.last)
	}
	if err := checkName(e.Path); err != nil {
		return err
	}
	if e.Type == Hardlink {
		f, ok := w.index.ix.Lookup(e.Linkname)
		if err := w.index.ix.Err(); err != nil {
			return err
		}
		if !ok || f.Type == Dir || f.Type == Hardlink || f.Type == Whiteout {
			return fmt.Errorf("no file %q before it to be linked to", e.Linkname)
		}
	}
	return nil
}

// indexed is e as an Index has it, with nothing but what a reader of the layer would find.
func indexed(e Entry) Entry {
	switch e.Type {
	case Hardlink:
		return Entry{Path: e.Path, Type: e.Type, Linkname: e.Linkname}
	case Whiteout:
		return Entry{Path: e.Path, Type: e.Type, Opaque: e.Opaque}
	}
	if e.Type != File {
		e.Size, e.Sum = 0, Sum{}
	}
	if e.Type != Symlink {
		e.Linkname = ""
	}
	if e.Type != Char && e.Type != Block {
		e.Devmajor, e.Devminor = 0, 0
	}
	e.Opaque = e.Opaque && e.Type == Dir
	e.Xattrs = keptXattrs(e.Xattrs)
	return e
}

func whiteoutHeader(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)}
}

func header(e *Entry) *tar.Header {
	h := &tar.Header{Name: e.Path, Mode: e.Mode, Uid: e.UID, Gid: e.GID, ModTime: e.ModTime, Format: tar.FormatPAX}
	switch e.Type {
	case File:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	case Dir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Linkname
	case Hardlink:
		h.Typeflag, h.Linkname = tar.TypeLink, e.Linkname
	case Char:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(e.Devmajor), int64(e.Devminor)
	case Block:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(e.Devmajor), int64(e.Devminor)
	case Fifo:
		h.Typeflag = tar.TypeFifo
	case Whiteout:
		if e.Opaque {
			return whiteoutHeader(join(e.Path, whiteoutOpaque))
		}
		dir, base := path.Split(e.Path)
		return whiteoutHeader(dir + whiteoutPrefix + base)
	default:
		// archive/tar refuses it.
		h.Typeflag = tar.TypeXGlobalHeader
	}
	if len(e.Xattrs) > 0 {
		h.PAXRecords = make(map[string]string, len(e.Xattrs))
		for k, v := range e.Xattrs {
			h.PAXRecords[paxXattr+k] = v
		}
	}
	return h
}

// copy writes the content of a file and returns its sum, and the bytes themselves if an index keeps them and they are few.
func (w *Writer) copy(e *Entry, content io.Reader) (sum Sum, kept []byte, err error) {
	size := e.Size
	w.content.Reset()
	if content == nil {
		content = bytes.NewReader(nil)
	}
	if w.chunk == nil {
		w.chunk = make([]byte, min(copyBuffer, max(size+1, 32<<10)))
	} else if int64(len(w.chunk)) < min(copyBuffer, size+1) {
		w.chunk = make([]byte, copyBuffer)
	}
	keep := namesFile(e.Path) && size <= maxNames
	if keep {
		kept = make([]byte, 0, size)
	}
	for left := size; ; {
		// One byte more than is left is asked for: it tells a file that grew.
		n, err := io.ReadAtLeast(content, w.chunk[:min(int64(len(w.chunk)), left+1)], 1)
		if int64(n) > left {
			return Sum{}, nil, fmt.Errorf("content is longer than %d bytes: it changed meanwhile", size)
		}
		if n > 0 {
			w.content.Write(w.chunk[:n])
			if w.search != nil {
				if i := w.search.next(w.chunk[:n]); i >= 0 {
					return Sum{}, nil, &ForbiddenError{Path: e.Path, Index: i}
				}
			}
			if _, err := w.tw.Write(w.chunk[:n]); err != nil {
				return Sum{}, nil, err
			}
			if keep {
				kept = append(kept, w.chunk[:n]...)
			}
			left -= int64(n)
		}
		if errors.Is(err, io.EOF) {
			if left > 0 {
				return Sum{}, nil, fmt.Errorf("content ends %d bytes early: it changed meanwhile", left)
			}
			w.content.Sum(sum[:0])
			return sum, kept, nil
		}
		if err != nil {
			return Sum{}, nil, err
		}
	}
}
