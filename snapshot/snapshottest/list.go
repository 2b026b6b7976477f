package snapshottest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// listing describes a tree of files: by path, a line with everything that can be known about it.
type listing map[string]string

// sameAs goes before the first name of a file that has several; a newline ends it.
const sameAs = " same as "

// list walks a mounted root filesystem. Times are in seconds, as in the tar of a layer. The link count of a directory is left out: overlayfs
// does not know it.
func list(t *testing.T, root string) listing {
	t.Helper()
	out := listing{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("mode %o owner %d:%d time %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			line += fmt.Sprintf(" size %d sum %s", len(data), hex.EncodeToString(sum[:4]))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " to " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			// Which names are one file, not which number it has.
			if first, ok := inodes[st.Ino]; ok {
				line += sameAs + first + "\n"
			} else {
				inodes[st.Ino] = rel
			}
		}
		xattrs, err := xattrsOf(path)
		if err != nil {
			return err
		}
		out[rel] = line + xattrs
		return nil
	})
	must(t, err)
	return out
}

// xattrsOf lists the attributes that belong to a file; those of the system's own labels do not.
func xattrsOf(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", fmt.Errorf("listing attributes of %s: %w", path, err)
	}
	names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var out strings.Builder
	for _, name := range names {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("reading %s of %s: %w", name, path, err)
		}
		fmt.Fprintf(&out, " %s=%q", name, value[:n])
	}
	return out.String(), nil
}

// withoutLinks is the listing without what is a hard link of what: while it is written, an overlay gives a file of a lower
// layer that was linked to (and so copied up) two inode numbers.
func (l listing) withoutLinks() listing {
	out := listing{}
	for path, line := range l {
		before, after, ok := strings.Cut(line, sameAs)
		if ok {
			_, after, _ = strings.Cut(after, "\n")
		}
		out[path] = before + after
	}
	return out
}

// wantSame reports every difference between two listings.
func (l listing) wantSame(t *testing.T, what string, other listing) {
	t.Helper()
	all := maps.Clone(l)
	maps.Copy(all, other)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if l[path] != other[path] {
			t.Errorf("%s differ at %s:\n\t%s\n\t%s", what, path, orNothing(l[path]), orNothing(other[path]))
		}
	}
}

func orNothing(s string) string {
	if s == "" {
		return "(nothing)"
	}
	return s
}

// want checks that exactly these paths exist below the root.
func (l listing) want(t *testing.T, paths ...string) {
	t.Helper()
	got := slices.Sorted(maps.Keys(l))
	want := append([]string{"."}, paths...)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there is %q, not %q", got, want)
	}
}

// Same reports every difference between two mounted root filesystems.
func Same(t *testing.T, what, one, other string) {
	t.Helper()
	list(t, one).wantSame(t, what, list(t, other))
}
