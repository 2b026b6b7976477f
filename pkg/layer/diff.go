package layer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Diff writes to w what the overlay upper directory changes over lower: the entries that changed, their parent directories
// and whiteouts. upper must not change meanwhile. lower is nil for a root filesystem that has nothing below. w is left open.
//
// It is what BuildKit's overlay differ writes (util/overlay, with containerd's ChangeWriter): an entry that is as in lower
// is left out, where type, mode, owner, device, link target, capabilities and user attributes count, and for all but
// directories size, time in seconds and, those being equal, content; directories are there where something below changed; an
// opaque directory becomes a whiteout for each name it hides; the root has no entry; sockets are left out. Unlike there, a
// file whose second name changed is there under both names, so that they stay links, and fractions of seconds never make a
// difference: the layer is the same whether the files below were unpacked from a layer, which cuts them, or not.
func Diff(ctx context.Context, upper string, lower Tree, w *Writer) error {
	return DiffDescribed(ctx, upper, lower, nil, w)
}

// DiffDescribed is Diff where the file system does not say everything of its files: describe completes e, made of st. It may change owner,
// mode, type and device number; attributes are those on disk. A socket that it makes nothing else of is left out.
func DiffDescribed(ctx context.Context, upper string, lower Tree, describe func(st *unix.Stat_t, e *Entry), w *Writer) error {
	fds, err := openDirs(upper)
	if err != nil {
		return fmt.Errorf("comparing %s: %w", upper, err)
	}
	return (&differ{dirs: fds, lower: lower, describe: describe}).diff(ctx, upper, w)
}

// Said is what is known of the files of a root filesystem beside what the file system says of them.
type Said interface {
	// Describe completes e, made of st: it may change owner, mode, type, device number and attributes.
	Describe(st *unix.Stat_t, e *Entry)
	// Unchanged reports, without reading it, that the file st at name has the content that the layers below have there.
	Unchanged(name string, st *unix.Stat_t) bool
}

// DiffRoot is Diff for a whole root filesystem in place of an overlay's upper directory: what lower has and root has not is removed.
// The result is the same layer. Attributes on disk do not count, only those of said.
func DiffRoot(ctx context.Context, root string, lower Tree, said Said, w *Writer) error {
	fds, err := openDirs(root)
	if err != nil {
		return fmt.Errorf("comparing %s: %w", root, err)
	}
	return (&differ{dirs: fds, lower: lower, said: said}).diff(ctx, root, w)
}

func (d *differ) diff(ctx context.Context, dir string, w *Writer) error {
	defer d.close()
	d.found, d.inodes = NewList(w.Temp), map[uint64]bool{}
	if d.lower == nil {
		d.lower = Stack(nil, nil)
	}
	if err := d.walk(ctx, ".", d.said != nil); err != nil {
		return fmt.Errorf("comparing %s: %w", dir, err)
	}
	parents := d.parents()
	first := map[uint64]string{}
	for e, note := range d.found.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		changed, inode := d.readNote(note)
		if !changed && !parents[e.Path] {
			continue
		}
		own := *e
		if inode != 0 {
			if to := first[inode]; to != "" {
				own = Entry{Path: e.Path, Type: Hardlink, Linkname: to}
			} else {
				first[inode] = e.Path
			}
		}
		if err := d.write(ctx, w, own); err != nil {
			return err
		}
	}
	return d.found.Err()
}

type differ struct {
	dirs
	lower Tree
	// said is nil for an upper directory, for which there may be describe.
	said     Said
	describe func(st *unix.Stat_t, e *Entry)
	// found is what may belong in the layer, with notes as addNote writes them; inodes are those with several names that changed.
	found  *List
	inodes map[uint64]bool
	note   []byte
}

// add notes an entry of the upper directory, or a name it hides. inode is set for what has several names.
func (d *differ) add(e *Entry, changed bool, inode uint64) error {
	if changed && inode != 0 {
		d.inodes[inode] = true
	}
	if !changed && inode == 0 && e.Type != Dir {
		return nil
	}
	d.note = append(d.note[:0], 0)
	if changed {
		d.note[0] = 1
	}
	d.note = binary.AppendUvarint(d.note, inode)
	return d.found.Add(e, d.note)
}

// readNote returns what add has noted; who shares an inode with what changed has changed too.
func (d *differ) readNote(note []byte) (changed bool, inode uint64) {
	inode, _ = binary.Uvarint(note[1:])
	return note[0] != 0 || d.inodes[inode], inode
}

// parents are the directories on the way to what changed.
func (d *differ) parents() map[string]bool {
	parents := map[string]bool{}
	for e, note := range d.found.All() {
		if changed, _ := d.readNote(note); !changed {
			continue
		}
		for p := parentOf(e.Path); p != "." && !parents[p]; p = parentOf(p) {
			parents[p] = true
		}
	}
	return parents
}

// walk compares what is in a directory. hides means that nothing of lower shines through it.
func (d *differ) walk(ctx context.Context, dir string, hides bool) error {
	names, err := d.list(dir)
	if err != nil {
		return err
	}
	var hidden []string
	if hides {
		if hidden, err = d.hidden(dir, names); err != nil {
			return err
		}
	}
	for _, base := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if hidden, err = d.removed(dir, hidden, base); err != nil {
			return err
		}
		if err := d.compare(ctx, dir, base, hides); err != nil {
			return err
		}
	}
	_, err = d.removed(dir, hidden, "")
	return err
}

// removed adds a whiteout for each of names that comes before base, or for all if there is none, and returns the others.
func (d *differ) removed(dir string, names []string, base string) ([]string, error) {
	for len(names) > 0 && (base == "" || names[0] < base) {
		if err := d.add(&Entry{Path: join(dir, names[0]), Type: Whiteout}, true, 0); err != nil {
			return nil, err
		}
		names = names[1:]
	}
	return names, nil
}

// hidden returns the names that lower has in an opaque directory, and the directory has not.
func (d *differ) hidden(dir string, names []string) (hidden []string, err error) {
	below, err := d.below(dir)
	if err != nil || below.Type != Dir {
		return nil, err
	}
	for e, err := range d.lower.ReadDir(dir) {
		if err != nil {
			return nil, err
		}
		if _, ok := slices.BinarySearch(names, baseOf(e.Path)); !ok {
			hidden = append(hidden, baseOf(e.Path))
		}
	}
	return hidden, nil
}

// below returns what lower has at a path; the zero Entry if nothing.
func (d *differ) below(name string) (Entry, error) {
	e, err := d.lower.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, nil
	}
	return e, err
}

func (d *differ) compare(ctx context.Context, dir, base string, hides bool) error {
	name := join(dir, base)
	fd, err := d.dir(dir)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	e, ok := statEntry(name, &st)
	if d.describe != nil {
		d.describe(&st, &e)
		ok = e.Type != 0 // a socket may stand for something else
	}
	if !ok {
		return nil
	}
	old, err := d.below(name)
	if err != nil {
		return err
	}
	if d.said != nil {
		d.said.Describe(&st, &e)
	}
	if d.said == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		if old.Type != 0 {
			return d.add(&Entry{Path: name, Type: Whiteout}, true, 0)
		}
		return nil
	}
	if e.Type == Symlink {
		if e.Linkname, err = readlink(fd, base); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	var inode uint64
	if e.Type != Dir && st.Nlink > 1 {
		inode = st.Ino
	}
	opaque := false
	if e.Type == Dir && d.said == nil {
		if opaque, err = d.directory(&e); err != nil {
			return err
		}
	}
	same, err := d.same(ctx, &e, &old, &st)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if err := d.add(&e, !same, inode); err != nil {
		return err
	}
	if e.Type == Dir {
		return d.walk(ctx, name, hides || opaque)
	}
	return nil
}

// statEntry describes a file but for what its name or content must be asked for. It reports false for sockets.
func statEntry(name string, st *unix.Stat_t) (Entry, bool) {
	e := Entry{Path: name, Mode: int64(st.Mode & 0o7777), UID: int(st.Uid), GID: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()).UTC()}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = File, st.Size
	case unix.S_IFDIR:
		e.Type = Dir
	case unix.S_IFLNK:
		e.Type = Symlink
	case unix.S_IFCHR:
		e.Type = Char
	case unix.S_IFBLK:
		e.Type = Block
	case unix.S_IFIFO:
		e.Type = Fifo
	default:
		return e, false
	}
	if e.Type == Char || e.Type == Block {
		e.Devmajor, e.Devminor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	return e, true
}

// directory reads the attributes of a directory and tells whether it is opaque.
func (d *differ) directory(e *Entry) (opaque bool, err error) {
	fd, err := d.dir(e.Path)
	if err != nil {
		return false, err
	}
	own, notes, err := readXattrs(fd)
	if err != nil {
		return false, fmt.Errorf("%q: %w", e.Path, err)
	}
	if _, ok := notes[overlayPrefix+"redirect"]; ok {
		return false, fmt.Errorf("%q was renamed with redirect_dir, which is not supported", e.Path)
	}
	e.Xattrs = own
	return notes[xattrOpaque] == "y", nil
}

// same reports whether e is what lower has.
func (d *differ) same(ctx context.Context, e, old *Entry, st *unix.Stat_t) (bool, error) {
	if e.Type != old.Type || e.Mode != old.Mode || e.UID != old.UID || e.GID != old.GID ||
		e.Devmajor != old.Devmajor || e.Devminor != old.Devminor || e.Linkname != old.Linkname {
		return false, nil
	}
	if e.Type == Dir {
		return maps.Equal(e.Xattrs, layerXattrs(old.Xattrs)), nil
	}
	if e.Size != old.Size || e.ModTime.Unix() != old.ModTime.Unix() {
		return false, nil
	}
	if e.Type != File {
		return true, nil
	}
	if d.said != nil && (!maps.Equal(e.Xattrs, layerXattrs(old.Xattrs)) || d.said.Unchanged(e.Path, st)) {
		return maps.Equal(e.Xattrs, layerXattrs(old.Xattrs)), nil
	}
	f, err := d.openFile(parentOf(e.Path), baseOf(e.Path))
	if err != nil {
		return false, err
	}
	defer f.Close()
	own, _, err := d.xattrs(f, e)
	if err != nil || !maps.Equal(own, layerXattrs(old.Xattrs)) {
		return false, err
	}
	want, err := d.lower.Digest(ctx, e.Path)
	if err != nil {
		return false, err
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, Until(ctx, f)); err != nil {
		return false, err
	}
	return Sum(hash.Sum(nil)).Digest() == want, nil
}

// xattrs returns the attributes of a file that is open.
func (d *differ) xattrs(f *os.File, e *Entry) (own, overlay map[string]string, err error) {
	if d.said != nil {
		return e.Xattrs, nil, nil
	}
	return readXattrs(int(f.Fd()))
}

// layerXattrs returns those attributes that Diff writes.
func layerXattrs(xattrs map[string]string) map[string]string {
	var out map[string]string
	for k, v := range xattrs {
		if k == xattrCapability || strings.HasPrefix(k, "user.") && !strings.HasPrefix(k, overlayPrefix) {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

// write adds one entry, opening a file for its content and attributes.
func (d *differ) write(ctx context.Context, w *Writer, e Entry) error {
	if e.Type != File {
		return w.Add(e, nil)
	}
	f, err := d.openFile(parentOf(e.Path), baseOf(e.Path))
	if err != nil {
		return fmt.Errorf("writing layer: %w", err)
	}
	defer f.Close()
	own, notes, err := d.xattrs(f, &e)
	if err != nil {
		return fmt.Errorf("writing layer entry %q: %w", e.Path, err)
	}
	if _, ok := notes[overlayPrefix+"metacopy"]; ok {
		return fmt.Errorf("writing layer entry %q: its content is below, as metacopy leaves it, which is not supported", e.Path)
	}
	e.Xattrs = own
	return w.Add(e, Until(ctx, f))
}
