package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// openLockFile opens a file to take flocks on. Its content is never written, so that it works on a full disk.
func openLockFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
}

// tryFlock takes a lock if it is free.
func tryFlock(f *os.File, how int) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
	}
}

// flockWait takes a lock, waiting for it.
func flockWait(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locking %s: %w", f.Name(), err)
		}
	}
}

// The pause between two attempts at a lock that another process holds. flock(2) can wait, but then it cannot be cancelled.
const (
	lockPauseMin = time.Millisecond
	lockPauseMax = 50 * time.Millisecond
)

// Lock takes an exclusive lock by name across processes, waiting until ctx ends; the returned function gives it back and may be called
// more than once. The death of a process gives its locks back.
func (s *Store) Lock(ctx context.Context, name string) (func(), error) {
	unlock, err := s.locks.lock(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("waiting for lock %q: %w", name, err)
	}
	for pause := lockPauseMin; ; pause = min(2*pause, lockPauseMax) {
		release, ok, err := s.TryLock(name)
		if err != nil {
			unlock()
			return nil, err
		}
		if ok {
			return sync.OnceFunc(func() { release(); unlock() }), nil
		}
		select {
		case <-ctx.Done():
			unlock()
			return nil, fmt.Errorf("waiting for lock %q: %w", name, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// isNamed reports whether an open file is what a path stands for.
func isNamed(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, now), err
}

// hashName is a file name for a string of any bytes.
func hashName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// keyedMutex is a set of mutexes by name. Within one process it spares the waiters from polling. The zero value is ready.
type keyedMutex struct {
	mu   sync.Mutex
	held map[string]*keyedLock
}

type keyedLock struct {
	// sem holds one token while the lock is taken.
	sem chan struct{}
	// users counts the holder and the waiters.
	users int
}

func (k *keyedMutex) lock(ctx context.Context, name string) (func(), error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyedLock{}
	}
	l := k.held[name]
	if l == nil {
		l = &keyedLock{sem: make(chan struct{}, 1)}
		k.held[name] = l
	}
	l.users++
	k.mu.Unlock()

	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, name)
		}
	}
	select {
	case l.sem <- struct{}{}:
		return func() { <-l.sem; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
