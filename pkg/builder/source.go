package builder

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// ErrOutsideContext is that of a path that leaves the root of a Source.
var ErrOutsideContext = errors.New("forbidden path outside the build context")

// NewLazySource returns the files of a directory. Each is hashed when it is first asked for. It is not safe for concurrent use, and Close removes
// nothing.
func NewLazySource(root string) (Source, error) {
	root, err := filepath.Abs(root)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the build context: %w", err)
	}
	return &lazySource{root: root, sums: map[string]string{}}, nil
}

type lazySource struct {
	root string
	sums map[string]string
}

func (s *lazySource) Root() string { return s.root }
func (s *lazySource) Close() error { return nil }

func (s *lazySource) Hash(name string) (string, error) {
	f, rel, err := find(s.root, name)
	if err != nil || f == nil {
		return rel, err
	}
	defer f.Close()
	if sum, ok := s.sums[rel]; ok {
		return sum, nil
	}
	sum, err := hashFile(f, rel)
	if err != nil {
		return "", fmt.Errorf("hashing %s: %w", rel, err)
	}
	s.sums[rel] = sum
	return sum, nil
}

// find opens a path below root, following symlinks as if root were the root of everything. It returns where that led. What is not there, and
// the root itself, are no file.
func find(root, name string) (*os.File, string, error) {
	clean := filepath.Clean(name)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return nil, "", fmt.Errorf("%w: %s", ErrOutsideContext, name)
	}
	clean = strings.TrimPrefix(filepath.Clean("/"+clean), "/")
	if clean == "" {
		return nil, name, nil
	}
	f, err := pathrs.OpenInRoot(root, clean)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, clean, nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("looking up %s: %w", name, err)
	}
	at, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err == nil {
		at, err = filepath.Rel(root, at)
	}
	if err != nil || at == "." {
		f.Close()
		return nil, name, err
	}
	return f, at, nil
}

// hashFile hashes what a tar header would say of a file, and its content.
func hashFile(f *os.File, name string) (string, error) {
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	h, err := tar.FileInfoHeader(fi, "")
	if err != nil {
		return "", err
	}
	h.Name, h.Uname, h.Gname = name, "", ""
	if fi.IsDir() {
		h.Name += "/"
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		h.Uid, h.Gid = int(st.Uid), int(st.Gid)
	}
	open, err := pathrs.Reopen(f, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", err
	}
	defer open.Close()
	value := make([]byte, 1<<10)
	if n, err := unix.Fgetxattr(int(open.Fd()), securityXattr, value); err == nil {
		h.PAXRecords = map[string]string{paxXattr + securityXattr: string(value[:n])}
	}
	sum := sha256.New()
	hashHeader(sum, h)
	if fi.Mode().IsRegular() {
		if _, err := io.Copy(sum, open); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

const (
	securityXattr = "security.capability"
	paxXattr      = "SCHILY.xattr."
)

// hashHeader writes the fields of a header in the order of tarsum's version 1 (moby, pkg/tarsum): names and values without anything between
// them, without the time, and then the extended attributes by name.
func hashHeader(w hash.Hash, h *tar.Header) {
	for _, kv := range [][2]string{
		{"name", h.Name}, {"mode", strconv.FormatInt(h.Mode, 10)}, {"uid", strconv.Itoa(h.Uid)}, {"gid", strconv.Itoa(h.Gid)},
		{"size", strconv.FormatInt(h.Size, 10)}, {"typeflag", string(h.Typeflag)}, {"linkname", h.Linkname}, {"uname", h.Uname},
		{"gname", h.Gname}, {"devmajor", strconv.FormatInt(h.Devmajor, 10)}, {"devminor", strconv.FormatInt(h.Devminor, 10)},
	} {
		_, _ = io.WriteString(w, kv[0]+kv[1])
	}
	var xattrs []string
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, paxXattr) {
			xattrs = append(xattrs, strings.TrimPrefix(k, paxXattr))
		}
	}
	slices.Sort(xattrs)
	for _, x := range xattrs {
		_, _ = io.WriteString(w, x+h.PAXRecords[paxXattr+x])
	}
}

// FromArchive returns the files of a tar, in any compression, which it unpacks into a temporary directory that Close removes. They belong to the
// caller; hashes are of what the tar says.
func FromArchive(ctx context.Context, archive io.Reader) (_ Source, err error) {
	root, err := os.MkdirTemp("", "cairn-context-")
	if err != nil {
		return nil, fmt.Errorf("opening the build context: %w", err)
	}
	s := &archiveSource{root: root, sums: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening the build context: %w", err), s.Close())
		}
	}()
	plain, _, err := layer.Decompress(archive)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return s, nil
		case err == nil:
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		if err := s.add(dir, h, r); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

type archiveSource struct {
	root string
	sums map[string]string
}

func (s *archiveSource) Root() string { return s.root }
func (s *archiveSource) Close() error { return os.RemoveAll(s.root) }

// add unpacks one entry. dir keeps it inside, symlinks or not.
func (s *archiveSource) add(dir *os.Root, h *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if name == "" {
		return nil
	}
	sum := sha256.New()
	hashHeader(sum, h)
	if err := dir.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	var err error
	mode := fs.FileMode(h.Mode & 0o777)
	switch h.Typeflag {
	case tar.TypeDir:
		if err = dir.Mkdir(name, mode|0o700); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	case tar.TypeReg:
		err = writeFile(dir, name, mode, io.TeeReader(content, sum))
	case tar.TypeSymlink:
		err = dir.Symlink(h.Linkname, name)
	case tar.TypeLink:
		err = dir.Link(strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"), name)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("a file of type %q has no place in a build context", h.Typeflag)
	}
	s.sums[name] = hex.EncodeToString(sum.Sum(nil))
	return err
}

func writeFile(dir *os.Root, name string, mode fs.FileMode, content io.Reader) error {
	if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := dir.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

func (s *archiveSource) Hash(name string) (string, error) {
	f, rel, err := find(s.root, name)
	if err != nil || f == nil {
		return rel, err
	}
	f.Close()
	if sum, ok := s.sums[rel]; ok {
		return sum, nil
	}
	return rel, nil
}
