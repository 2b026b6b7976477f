package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// A named lock is held by who has given its name to a file that he has locked (flock). For that every Store has one file, with as many names as
// it holds locks: a name costs a fraction of what a file does, and each step of a build takes a lock. Where files have one name each, as on a
// Windows share, every lock is a locked file of its own.

// TryLock is Lock without waiting: ok is false where somebody else, here or in another process, has the lock or has just given it up.
func (s *Store) TryLock(name string) (release func(), ok bool, err error) {
	path := s.path(locksDir, hashName(name))
	own, err := s.lockedFile()
	if err == nil {
		ok, err = takeName(own.Name(), path)
	}
	if slices.ContainsFunc([]unix.Errno{unix.EPERM, unix.EOPNOTSUPP, unix.EMLINK, unix.ENOSYS, unix.EXDEV}, func(e unix.Errno) bool { return errors.Is(err, e) }) {
		return tryLockFile(path)
	}
	if err != nil {
		return nil, false, fmt.Errorf("locking %q: %w", name, err)
	}
	if !ok {
		return nil, false, nil
	}
	return sync.OnceFunc(func() {
		// A Store that is closed has given all of its locks away; this one may be somebody else's.
		if mine, err := isNamed(own, path); err == nil && mine {
			os.Remove(path)
		}
	}), true, nil
}

// tryLockFile makes a file and locks it. It is removed while it is held: whoever has opened it meanwhile sees that it is not the one of that name
// any more.
func tryLockFile(path string) (release func(), ok bool, err error) {
	f, err := openLockFile(path)
	if err != nil {
		return nil, false, err
	}
	if ok, err = tryFlock(f, unix.LOCK_EX); err == nil && ok {
		ok, err = isNamed(f, path)
	}
	if err != nil || !ok {
		f.Close()
		return nil, false, err
	}
	return sync.OnceFunc(func() { os.Remove(path); f.Close() }), true, nil
}

// lockedFile returns this Store's locked file.
func (s *Store) lockedFile() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locked != nil {
		return s.locked, nil
	}
	session, err := s.sessionDirLocked()
	if err != nil {
		return nil, err
	}
	f, err := openLockFile(filepath.Join(session, lockedName))
	if err != nil {
		return nil, err
	}
	if ok, err := tryFlock(f, unix.LOCK_EX); err != nil || !ok {
		f.Close()
		return nil, errors.Join(err, fmt.Errorf("locking %s: somebody else has", f.Name()))
	}
	s.locked = f
	return f, nil
}

// takeName gives a locked file the name of a lock. A file that has the name and is locked by nobody was left by a process that is dead.
func takeName(locked, path string) (bool, error) {
	for {
		err := os.Link(locked, path)
		if !errors.Is(err, fs.ErrExist) {
			return err == nil, err
		}
		if dead, err := dropDead(path); err != nil || !dead {
			return false, err
		}
	}
}

// dropDead removes the name of a lock whose holder is dead. The file is locked meanwhile, so that only one process does.
func dropDead(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if ok, err := tryFlock(f, unix.LOCK_EX); err != nil || !ok {
		return false, err
	}
	if ok, err := isNamed(f, path); err != nil || !ok {
		return false, err
	}
	return true, os.Remove(path)
}
