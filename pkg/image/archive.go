package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
)

// The most bytes that the members of an archive may have together, and the most members.
const (
	maxArchive = 256 << 30
	maxMembers = 1 << 18
	// maxNames is the most bytes that the names of all members may have.
	maxNames = 64 << 20
	// maxHops is how many symlinks are followed for one name, as in Linux.
	maxHops = 40
)

// archive is a tar archive of images, read at random. Names in it are names in a map and never become paths of this machine;
// symlinks are followed inside the archive and end at its root.
type archive struct {
	file    *os.File
	members map[string]section
	// links are symlinks and hard links by name; an absolute target is one from the archive's root.
	links map[string]string
	close func() error
}

// section is where the content of a member is in the file.
type section struct{ offset, size int64 }

// openArchive reads where everything is. What is compressed, and what is no regular file, is copied into the store's temporary
// space. The archive must be closed.
func openArchive(ctx context.Context, st *store.Store, in io.Reader) (*archive, error) {
	a := &archive{members: map[string]section{}, links: map[string]string{}, close: func() error { return nil }}
	if f, ok := in.(*os.File); ok && plainFile(f) {
		a.file = f
		return a, a.scan(ctx, f, nil)
	}
	dir, err := st.TempDir("load-")
	if err != nil {
		return nil, err
	}
	spool, err := os.OpenFile(path.Join(dir, "members"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.Join(err, st.RemoveTemp(dir))
	}
	a.file = spool
	a.close = func() error { return errors.Join(spool.Close(), st.RemoveTemp(dir)) }
	plain, _, err := layer.Decompress(in)
	if err == nil {
		err = errors.Join(a.scan(ctx, plain, spool), plain.Close())
	}
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

// plainFile reports whether f is a regular file, at its beginning, of an archive that is not compressed.
func plainFile(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != 0 {
		return false
	}
	plain, kind, err := layer.Decompress(io.NewSectionReader(f, 0, fi.Size()))
	if err != nil {
		return false
	}
	plain.Close()
	return kind == "uncompressed"
}

// scan walks over the members. With a spool they are copied there, else r is the archive's file itself.
func (a *archive) scan(ctx context.Context, r io.Reader, spool *os.File) error {
	var offset int64
	names := 0
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return invalidf("reading archive: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if names += len(h.Name) + len(h.Linkname); offset+h.Size > maxArchive || n > maxMembers || names > maxNames {
			return invalidf("reading archive: it is too large")
		}
		name := inside(h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink:
			a.links[name] = h.Linkname
		case tar.TypeLink:
			a.links[name] = "/" + h.Linkname
		case tar.TypeReg, tar.TypeGNUSparse:
			delete(a.links, name)
			if a.members[name], err = a.place(h, tr, spool, offset); err != nil {
				return fmt.Errorf("reading archive: member %q: %w", h.Name, err)
			}
			offset += h.Size
		}
	}
}

// place finds or makes the place of a member's content.
func (a *archive) place(h *tar.Header, tr *tar.Reader, spool *os.File, offset int64) (section, error) {
	if spool == nil {
		if h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" {
			return section{}, invalid{errors.New("sparse members are not supported")}
		}
		at, err := a.file.Seek(0, io.SeekCurrent) // tar.Reader has read the header and nothing more
		return section{at, h.Size}, err
	}
	n, err := io.Copy(spool, tr)
	return section{offset, n}, err
}

// inside is a name from the archive's root: ".." does not lead out of it.
func inside(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// open returns the content of a member.
func (a *archive) open(name string) (*io.SectionReader, error) {
	at, err := a.resolve(name)
	if err != nil {
		return nil, err
	}
	s, ok := a.members[at]
	if !ok {
		return nil, notFoundf("the archive has no %q", name)
	}
	return io.NewSectionReader(a.file, s.offset, s.size), nil
}

// resolve follows symlinks, also those that a name leads through.
func (a *archive) resolve(name string) (string, error) {
	at := inside(name)
hop:
	for range maxHops {
		parts := strings.Split(at, "/")
		for i := range parts {
			prefix := strings.Join(parts[:i+1], "/")
			target, ok := a.links[prefix]
			if !ok {
				continue
			}
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(prefix), target)
			}
			at = inside(path.Join(target, strings.Join(parts[i+1:], "/")))
			continue hop
		}
		return at, nil
	}
	return "", invalidf("too many symlinks behind %q in the archive", name)
}

// read returns a whole small member.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > limit {
		return nil, invalidf("%q in the archive is larger than %d bytes", name, limit)
	}
	return io.ReadAll(r)
}

// decode reads a JSON member.
func (a *archive) decode(name string, limit int64, v any) error {
	data, err := a.read(name, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return invalidf("reading %q: %w", name, err)
	}
	return nil
}
