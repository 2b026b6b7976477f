package layer

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Unpack reads the compressed blob r of l, checks that its content has l.DiffID, and returns its index. When dir is not
// empty the layer is also unpacked there in overlay form: whiteouts are character devices 0/0, opaque directories carry
// user.overlay.opaque. Nothing is ever written outside dir. lower is the tree of the layers below, for entries whose parent
// is a symlink there; nil for the lowest.
//
// dir must be empty. It is for overlayfs mounted with userxattr over what lower is; whiteouts of what lower does not have
// are left out. After an error dir holds something unfinished.
//
// The index is the same whatever dir and lower are. What a layer says is kept but for: times of access and change; user and
// group names; attributes other than security.capability, user.* and POSIX ACLs; and attributes of what is neither file nor
// directory. An attribute user.overlay.* is stored under the name by which overlayfs shows it to its users, never as its own
// note. Devices that the kernel does not let this process make (EPERM, as in every user namespace) are sockets in dir, which
// nobody can open, and devices in the index. A device 0:0, a root that is no directory, a parent that is a file, a hard link
// to what the layer does not have before it, names too long for Linux, and all that exceeds lim, is an error.
func Unpack(ctx context.Context, r io.Reader, l Layer, dir string, lower Tree, lim Limits) (*Index, error) {
	ix, err := unpack(ctx, r, l, unpackTo{dir: dir, lower: lower}, lim)
	if err != nil {
		return nil, fmt.Errorf("unpacking layer %s: %w", l.DiffID, err)
	}
	return ix, nil
}

// UnpackContents is Unpack for who may not change owners and does not mount: dir gets the files of the layer with their content and times,
// at the paths at which Stack opens them. They belong to the caller, who can always read and write them; they are executable as in the
// layer, and the rest of their metadata is in the index alone. Devices, FIFOs, whiteouts and attributes are not in dir.
func UnpackContents(ctx context.Context, r io.Reader, l Layer, dir string, lower Tree, lim Limits) (*Index, error) {
	ix, err := unpack(ctx, r, l, unpackTo{dir: dir, lower: lower, contents: true}, lim)
	if err != nil {
		return nil, fmt.Errorf("unpacking layer %s: %w", l.DiffID, err)
	}
	return ix, nil
}

// UnpackOneOwner is Unpack for who may not change owners: all that is in dir belongs to the caller, and who it is to belong to is in the
// index alone.
func UnpackOneOwner(ctx context.Context, r io.Reader, l Layer, dir string, lower Tree, lim Limits) (*Index, error) {
	ix, err := unpack(ctx, r, l, unpackTo{dir: dir, lower: lower, oneOwner: true}, lim)
	if err != nil {
		return nil, fmt.Errorf("unpacking layer %s: %w", l.DiffID, err)
	}
	return ix, nil
}

// unpackTo is where a layer is unpacked, and how.
type unpackTo struct {
	dir                string
	lower              Tree
	contents, oneOwner bool
}

func unpack(ctx context.Context, r io.Reader, l Layer, into unpackTo, lim Limits) (*Index, error) {
	var to *unpacker
	if into.dir != "" {
		d, err := openDisk(into.dir)
		if err != nil {
			return nil, err
		}
		defer d.close()
		d.contents, d.oneOwner = into.contents, into.oneOwner
		to = &unpacker{disk: d, lower: into.lower}
	}
	rd := newReader(lim.withDefaults())
	visit := func(h *tar.Header, n *node, content io.Reader) error { return nil }
	if to != nil {
		to.reader = rd
		visit = to.entry
	}
	if err := readLayer(ctx, r, l, rd, visit); err != nil {
		return nil, err
	}
	ix, err := rd.index()
	if err != nil || to == nil {
		return ix, err
	}
	return ix, to.finish(ix)
}

// visitFunc gets each header of a layer, the node it placed (nil if none), and the content of a File. What it leaves of the
// content is read after it.
type visitFunc func(h *tar.Header, n *node, content io.Reader) error

// readLayer reads the whole of a layer and checks it. The nodes of files have a digest once it returns.
func readLayer(ctx context.Context, r io.Reader, l Layer, rd *reader, visit visitFunc) error {
	if err := l.DiffID.Validate(); err != nil {
		return err
	}
	s, err := newStream(ctx, r, rd.lim.Bytes)
	if err != nil {
		return err
	}
	defer s.Close()
	tr := tar.NewReader(s)
	c := &content{r: tr, hash: sha256.New()}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return s.verify(l.DiffID)
		}
		if err != nil {
			return err
		}
		n, what, err := rd.add(h)
		if err == nil {
			if what != placeEntry {
				n = nil
			}
			err = c.visit(rd, h, n, visit)
		}
		if err == nil && n != nil {
			err = rd.settle(n)
		}
		if err != nil {
			return fmt.Errorf("entry %.200q: %w", h.Name, err)
		}
	}
}

// content is what is in a file of a layer, hashed as it is read.
type content struct {
	r    io.Reader
	hash hash.Hash
	keep []byte
	kept bool
	buf  []byte
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	if c.kept {
		c.keep = append(c.keep, p[:n]...)
	}
	return n, err
}

func (c *content) visit(rd *reader, h *tar.Header, n *node, visit visitFunc) error {
	if n == nil || n.e.Type != File || h.Typeflag == tar.TypeLink {
		return visit(h, n, c.r)
	}
	c.hash.Reset()
	c.kept = namesFile(n.e.Path) && n.e.Size <= maxNames
	if err := visit(h, n, c); err != nil {
		return err
	}
	if c.buf == nil {
		c.buf = make([]byte, 32<<10)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, c.buf); err != nil {
		return err
	}
	c.hash.Sum(n.e.Sum[:0])
	if c.kept {
		rd.names[n.e.Path] = append([]byte{}, c.keep...)
		c.keep, c.kept = c.keep[:0], false
	}
	return nil
}
