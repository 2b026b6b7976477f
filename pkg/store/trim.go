package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Bound says what of the caches may stay.
type Bound struct {
	// MaxBytes is what caches may take up at most, as Usage counts them; the least recently used go first. Negative is no limit.
	MaxBytes int64
	// Since protects what was used at this time or later. Without MaxBytes everything else goes. The zero time protects nothing.
	Since time.Time
}

// Trim removes records of buckets, directories of RUN cache mounts, and what only they needed, until the bound holds or nothing is left that may
// go. As for Prune, nobody else may have the store open.
func (s *Store) Trim(ctx context.Context, buckets []string, b Bound) (Dropped, error) {
	if b.MaxBytes < 0 {
		return s.DropCaches(ctx, buckets, b.Since)
	}
	var done Dropped
	for {
		// What nothing needs goes before what a cache has.
		if _, err := s.Prune(ctx); err != nil {
			return done, err
		}
		u, err := s.Usage(ctx)
		if err != nil || u.Caches <= b.MaxBytes {
			return done, err
		}
		more, err := s.trimOnce(ctx, buckets, b)
		done.Records += more.Records
		done.CacheDirs += more.CacheDirs
		if err != nil {
			return done, fmt.Errorf("trimming store %s: %w", s.root, err)
		}
		if more == (Dropped{}) {
			return done, nil
		}
	}
}

// cacheItem is a record or the directory of a cache mount.
type cacheItem struct {
	path string
	used time.Time
	dir  bool
}

// trimOnce removes the quarter of what may go that was not used for longest. How much room a record holds cannot be said: others may name the same.
func (s *Store) trimOnce(ctx context.Context, buckets []string, b Bound) (Dropped, error) {
	var items []cacheItem
	for _, dir := range append(slices.Clone(buckets), "") {
		path := s.path(cacheDirsDir)
		if dir != "" {
			if _, err := s.recordPath(dir, ""); err != nil {
				return Dropped{}, err
			}
			path = s.path(recordsDir, dir)
		}
		more, err := cacheItems(path, dir == "")
		if err != nil {
			return Dropped{}, err
		}
		items = append(items, more...)
	}
	items = slices.DeleteFunc(items, func(i cacheItem) bool { return !b.Since.IsZero() && !i.used.Before(b.Since) })
	slices.SortFunc(items, func(a, b cacheItem) int { return a.used.Compare(b.used) })
	var done Dropped
	err := s.alone(func() error {
		for _, i := range items[:(len(items)+3)/4] {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := removeTree(i.path); err != nil {
				return err
			}
			if i.dir {
				done.CacheDirs++
			} else {
				done.Records++
			}
		}
		return nil
	})
	return done, err
}

func cacheItems(dir string, dirs bool) ([]cacheItem, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var items []cacheItem
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			continue // gone
		}
		i := cacheItem{path: filepath.Join(dir, e.Name()), used: fi.ModTime(), dir: dirs}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && dirs {
			// Its own time is content. A kernel keeps the time of the last access to a day at least.
			if read := time.Unix(st.Atim.Unix()); read.After(i.used) {
				i.used = read
			}
		}
		items = append(items, i)
	}
	return items, nil
}

// TouchRecord notes that a document was used, for Trim. It is only a note: nothing is said of failures.
func (s *Store) TouchRecord(bucket, key string) {
	if path, err := s.recordPath(bucket, key); err == nil {
		now := time.Now()
		_ = os.Chtimes(path, now, now)
	}
}
