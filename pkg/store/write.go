package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
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

// sealHeader begins a sealed document; the number is the format's version.
const sealHeader = "cairn1 "

// sealedLen is the length of the line that goes before a sealed document: the header, a SHA-256 in hex, a newline.
const sealedLen = len(sealHeader) + 2*sha256.Size + 1

// putSealed writes a document with its checksum before it, so that a damaged one is recognised. What is there already in the same words
// is left alone: an unchanged store costs no sync.
func (s *Store) putSealed(dst string, data []byte, keep durability) error {
	if old, err := readSealed(dst); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp, err := s.tempFile()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	_, err = tmp.WriteString(sealHeader + hex.EncodeToString(sum[:]) + "\n")
	if err == nil {
		_, err = tmp.Write(data)
	}
	if err != nil {
		tmp.Close()
		os.Remove(tmp.Name())
		return fmt.Errorf("writing %s: %w", dst, err)
	}
	return s.publish(tmp, dst, 0o600, keep)
}

// readSealed returns a document. A damaged one is a damagedError.
func readSealed(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, damagedError{path}
	}
	raw := make([]byte, fi.Size())
	if _, err := io.ReadFull(f, raw); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(raw) < sealedLen {
		return nil, damagedError{path}
	}
	data := raw[sealedLen:]
	sum := sha256.Sum256(data)
	if string(raw[:sealedLen]) != sealHeader+hex.EncodeToString(sum[:])+"\n" {
		return nil, damagedError{path}
	}
	return data, nil
}

// damagedError is about a file whose content is not what was written. Such a file counts as missing: everybody who can
// make it again does.
type damagedError struct{ path string }

func (e damagedError) Error() string { return "reading " + e.path + ": " + ErrCorrupt.Error() }

func (e damagedError) Is(target error) bool { return target == ErrCorrupt || target == fs.ErrNotExist }
