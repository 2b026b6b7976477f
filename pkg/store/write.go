package store

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// durability says whether a file must survive a power cut.
type durability bool

const (
	durable     durability = true
	rebuildable durability = false
)

// publish is the end of the write protocol, for every file the store keeps: tmp, which is complete and lies in the session's directory,
// becomes dst, replacing what is there. It closes tmp; on error tmp is removed and dst is as it was.
func (s *Store) publish(tmp *os.File, dst string, mode fs.FileMode, keep durability) error {
	err := func() error {
		defer tmp.Close()
		if err := tmp.Chmod(mode); err != nil {
			return err
		}
		if keep {
			if err := tmp.Sync(); err != nil {
				return err
			}
		}
		return tmp.Close()
	}()
	if err == nil {
		err = os.Rename(tmp.Name(), dst)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("writing %s: %w", dst, err)
	}
	if keep {
		return s.syncDirs(filepath.Dir(dst))
	}
	return nil
}

// syncDirs makes the names in a directory of the store durable, and its own.
func (s *Store) syncDirs(dir string) error {
	for {
		if err := syncDir(dir); err != nil || dir == s.root {
			return err
		}
		dir = filepath.Dir(dir)
	}
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// tempFile makes a file in the session's directory.
func (s *Store) tempFile() (*os.File, error) {
	dir, err := s.sessionDir()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "file-")
	if err != nil {
		return nil, fmt.Errorf("writing to store: %w", err)
	}
	return f, nil
}

// damagedError is about a file whose content is not what was written. Such a file counts as missing: everybody who can
// make it again does.
type damagedError struct{ path string }

func (e damagedError) Error() string { return "reading " + e.path + ": " + ErrCorrupt.Error() }

func (e damagedError) Is(target error) bool { return target == ErrCorrupt || target == fs.ErrNotExist }
