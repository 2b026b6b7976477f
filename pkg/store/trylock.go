package store

import (
	"fmt"
	"os"
	"sync"
)

// TryLock is Lock without waiting: ok is false where somebody else, here or in another process, has the lock.
func (s *Store) TryLock(name string) (release func(), ok bool, err error) {
	path := s.path(locksDir, hashName(name))
	f, err := tryLockFile(path)
	if err != nil {
		return nil, false, fmt.Errorf("locking %q: %w", name, err)
	}
	if f == nil {
		return nil, false, nil
	}
	return sync.OnceFunc(func() { os.Remove(path); f.Close() }), true, nil
}
