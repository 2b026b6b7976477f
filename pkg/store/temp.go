package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// sessionDir returns this Store's own directory below tmp, making it and locking it when it is first needed.
func (s *Store) sessionDir() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessionDirLocked()
}

func (s *Store) sessionDirLocked() (string, error) {
	if s.closed {
		return "", fmt.Errorf("writing to store %s: %w", s.root, fs.ErrClosed)
	}
	if s.session != nil {
		return s.session.Name(), nil
	}
	for {
		dir, err := lockedDir(s.path(tmpDir, "s-"+rand.Text()[:12]))
		if err != nil {
			return "", fmt.Errorf("writing to store: %w", err)
		}
		if dir != nil {
			s.session = dir
			return dir.Name(), nil
		}
	}
}

// lockedDir makes a directory and locks it. Between the two a sweeper may have taken it for a dead one; then it returns nil.
func lockedDir(path string) (*os.File, error) {
	if err := makeDir(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ok, err := tryFlock(dir, unix.LOCK_EX)
	if err == nil && ok {
		if ok, err = isNamed(dir, dir.Name()); err == nil && ok {
			return dir, nil
		}
	}
	dir.Close()
	return nil, err
}

// sweepTemp removes what lies in tmp and is held by nobody.
func (s *Store) sweepTemp() error {
	entries, err := os.ReadDir(s.path(tmpDir))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if err := sweepOne(s.path(tmpDir, e.Name())); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sweepOne removes one entry of tmp if it can lock it. The lock is held until the entry is gone, so that only one process works on it.
func sweepOne(path string) error {
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return removeFile(path)
	case err != nil:
		return err
	}
	defer dir.Close()
	if ok, err := tryFlock(dir, unix.LOCK_EX); err != nil || !ok {
		return err
	}
	return removeTree(path)
}

// TempDir makes a directory that belongs to this process, in the store's file system. It is removed after the process's end at
// the latest; RemoveTemp does it earlier.
func (s *Store) TempDir(pattern string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := s.sessionDirLocked()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(session, pattern)
	if err != nil {
		return "", fmt.Errorf("making temporary directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return "", fmt.Errorf("making temporary directory: %w", err)
	}
	s.temps[dir] = true
	return dir, nil
}

// TempFile makes a file without a name, in the store's file system: it is gone when it is closed.
func (s *Store) TempFile() (*os.File, error) {
	f, err := s.tempFile()
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("making temporary file: %w", err)
	}
	return f, nil
}

// RemoveTemp removes a directory that TempDir or NewSnapshot made. One that is gone is no error. It never leaves the
// directory: not through symlinks, and not into what is mounted below, which is an error.
func (s *Store) RemoveTemp(dir string) error {
	if err := s.checkTemp(dir); err != nil {
		return err
	}
	err := removeTree(dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.temps, dir)
	return err
}

// checkTemp makes sure that a directory is below this Store's session.
func (s *Store) checkTemp(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil || !strings.HasPrefix(filepath.Clean(dir), s.session.Name()+"/") {
		return fmt.Errorf("%s is not a temporary directory of this store", dir)
	}
	return nil
}

// snapshotStamp is the name below which this process's snapshots stand.
func snapshotStamp() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot id: %w", err)
	}
	var ids strings.Builder
	for _, name := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		data, err := os.ReadFile(name)
		// Without user namespaces in the kernel there are no such files, and only one mapping.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("reading the id mappings: %w", err)
		}
		ids.Write(data)
	}
	return bootStamp(string(boot)) + "-" + hashName(ids.String())[:8], nil
}

func bootStamp(boot string) string { return hashName(strings.TrimSpace(boot))[:12] }

// retireSnapshots moves the snapshots of other boots to tmp, where they are removed as leftovers. Only who is alone in the store may do so:
// on a shared file system another machine, with a boot id of its own, may be at work.
func (s *Store) retireSnapshots() {
	boot, _, _ := strings.Cut(s.stamp, "-")
	entries, err := os.ReadDir(s.path(snapshotsDir))
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), boot+"-") {
			_ = os.Rename(s.path(snapshotsDir, e.Name()), s.path(tmpDir, "old-"+rand.Text()[:12]))
		}
	}
}

func (s *Store) snapshotPath(chainID digest.Digest) (string, error) {
	if err := chainID.Validate(); err != nil {
		return "", fmt.Errorf("ChainID %q: %w", chainID, err)
	}
	if chainID.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("ChainID %q: algorithm %s is not supported", chainID, chainID.Algorithm())
	}
	return s.path(snapshotsDir, s.stamp, chainID.Encoded()), nil
}

// Snapshot returns the committed snapshot directory of a ChainID; fs.ErrNotExist if there is none (or it is of an earlier boot).
func (s *Store) Snapshot(chainID digest.Digest) (string, error) {
	path, err := s.snapshotPath(chainID)
	if err != nil {
		return "", err
	}
	if fi, err := os.Lstat(path); err != nil || !fi.IsDir() {
		return "", fmt.Errorf("snapshot %s: %w", chainID, fs.ErrNotExist)
	}
	return path, nil
}

// NewSnapshot makes an empty temporary directory in the snapshots' file system, which CommitSnapshot renames into place. The
// first to commit a ChainID wins; the others' directories are dropped and the winner's path is returned.
func (s *Store) NewSnapshot() (string, error) { return s.TempDir("snapshot-") }

// CommitSnapshot makes dir the snapshot of chainID and returns its final path. dir is what NewSnapshot returned, or a directory below
// one that TempDir did.
func (s *Store) CommitSnapshot(chainID digest.Digest, dir string) (string, error) {
	dst, err := s.snapshotPath(chainID)
	if err != nil {
		return "", err
	}
	if err := s.checkTemp(dir); err != nil {
		return "", err
	}
	switch err := renameNoReplace(dir, dst); {
	case err == nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.temps, dir)
		return dst, nil
	case errors.Is(err, fs.ErrExist), errors.Is(err, unix.ENOTEMPTY):
		return dst, s.RemoveTemp(dir)
	default:
		return "", fmt.Errorf("committing snapshot %s: %w", chainID, err)
	}
}

// renameNoReplace renames a directory unless there is one of the new name. A plain rename would replace an empty one, which
// may be mounted somewhere.
func renameNoReplace(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return fs.ErrExist
	}
	return os.Rename(from, to)
}

// KeepCacheDir makes a directory of TempDir, with what is in it, the lasting one of a RUN cache mount, by its key (any bytes; hashed), which
// has none yet, and returns its new path.
func (s *Store) KeepCacheDir(key, tmp string) (string, error) {
	if err := s.checkTemp(tmp); err != nil {
		return "", err
	}
	dir := s.path(cacheDirsDir, hashName(key))
	if err := renameNoReplace(tmp, dir); err != nil {
		return "", fmt.Errorf("making cache directory: %w", errors.Join(err, s.RemoveTemp(tmp)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.temps, tmp)
	return dir, nil
}

// FindCacheDir returns the lasting directory of a key; fs.ErrNotExist if there is none.
func (s *Store) FindCacheDir(key string) (string, error) {
	dir := s.path(cacheDirsDir, hashName(key))
	if _, err := os.Lstat(dir); err != nil {
		return "", fmt.Errorf("looking for a cache directory: %w", err)
	}
	return dir, nil
}
