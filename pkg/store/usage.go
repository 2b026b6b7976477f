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

// Usage is what a store takes up on its disk, in bytes.
type Usage struct {
	// Images is the blobs that names lead to.
	Images int64
	// Caches is everything else: other blobs, what is known of layers, snapshots, records and the directories of RUN cache mounts.
	Caches int64
	// Records is the number of records, CacheDirs that of the directories of RUN cache mounts.
	Records, CacheDirs int
}

// Usage measures the store. Files with several names count once. Where other users' files cannot be looked into they count as
// nothing: measure from inside the user namespace that the snapshots belong to.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	p := newPruner(s)
	if err := p.markRefs(); err != nil {
		return Usage{}, fmt.Errorf("measuring store %s: %w", s.root, err)
	}
	var u Usage
	for b, err := range s.Blobs() {
		switch {
		case err != nil || ctx.Err() != nil:
			return u, fmt.Errorf("measuring store %s: %w", s.root, errors.Join(err, ctx.Err()))
		case p.blobs[b.Digest]:
			u.Images += b.Size
		default:
			u.Caches += b.Size
		}
	}
	for _, dir := range []string{layersDir, snapshotsDir, recordsDir, cacheDirsDir, tmpDir} {
		n, files, err := measure(ctx, s.path(dir))
		if err != nil {
			return u, fmt.Errorf("measuring store %s: %w", s.root, err)
		}
		u.Caches += n
		if dir == recordsDir {
			u.Records = files
		}
	}
	dirs, err := os.ReadDir(s.path(cacheDirsDir))
	u.CacheDirs = len(dirs)
	return u, err
}

// measure returns the space that a directory takes up and the number of its files.
func measure(ctx context.Context, dir string) (size int64, files int, err error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed by somebody meanwhile
		}
		if errors.Is(err, fs.ErrPermission) {
			return fs.SkipDir
		}
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return nil
		}
		st := fi.Sys().(*syscall.Stat_t)
		if id := (inode{st.Dev, st.Ino}); st.Nlink > 1 && !e.IsDir() {
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		size += st.Blocks * 512
		if !e.IsDir() {
			files++
		}
		return nil
	})
	return size, files, err
}

// Dropped is what DropCaches has removed.
type Dropped struct{ Records, CacheDirs int }

// DropCaches removes the records of buckets and the directories of RUN cache mounts that were last written before a time; all of
// them if it is zero. What the records kept alive is for Prune. As for Prune, nobody else may have the store open.
func (s *Store) DropCaches(ctx context.Context, buckets []string, before time.Time) (Dropped, error) {
	var done Dropped
	err := s.alone(func() error {
		for _, bucket := range buckets {
			if _, err := s.recordPath(bucket, ""); err != nil {
				return err
			}
			n, err := s.drop(ctx, s.path(recordsDir, bucket), before)
			if done.Records += n; err != nil {
				return err
			}
		}
		n, err := s.drop(ctx, s.path(cacheDirsDir), before)
		done.CacheDirs = n
		return err
	})
	if err != nil {
		return done, fmt.Errorf("dropping caches of store %s: %w", s.root, err)
	}
	return done, nil
}

// drop removes the entries of a directory that are old enough.
func (s *Store) drop(ctx context.Context, dir string, before time.Time) (int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool {
		fi, err := e.Info()
		return err != nil || !before.IsZero() && !fi.ModTime().Before(before)
	})
	for i, e := range entries {
		if ctx.Err() != nil {
			return i, ctx.Err()
		}
		if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
			return i, err
		}
	}
	return len(entries), nil
}
