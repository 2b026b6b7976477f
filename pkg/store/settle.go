package store

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Waiting for the disk is what a small build would spend most of its time with, and nobody needs it before a name leads to what was written:
// records are only hints, and readers verify. So blobs are written without a sync, with a mode that says so, and are made durable together, by
// SetRef. Those that a power cut has caught before are told by their mode and an age greater than the machine's, and are read before they count.
const (
	modeWritten = 0o400
	modeDurable = 0o444
)

// settleJobs is how many blobs are synced at once; the disk makes few flushes of them.
const settleJobs = 8

// settle makes durable what a manifest leads to, as far as it is held.
func (s *Store) settle(d digest.Digest) error {
	p := newPruner(s)
	if err := p.keep(d); err != nil {
		return err
	}
	var fresh []string
	for d := range p.blobs {
		path, err := s.blobPath(d)
		if err != nil {
			continue // no digest: a layer whose blob is not known
		}
		if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm() != modeDurable {
			fresh = append(fresh, path)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	var group errgroup.Group
	group.SetLimit(settleJobs)
	dirs := map[string]bool{}
	for _, path := range fresh {
		dirs[filepath.Dir(path)] = true
		group.Go(func() error { return syncFile(path) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for dir := range dirs {
		if err := s.syncDirs(dir); err != nil {
			return err
		}
	}
	// Only now is it true of the names too.
	for _, path := range fresh {
		if err := os.Chmod(path, modeDurable); err != nil {
			return fmt.Errorf("making %s durable: %w", path, err)
		}
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("making a blob durable: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("making %s durable: %w", path, err)
	}
	return nil
}

// doubtful reports whether a power cut may have caught a blob's file before it was synced. Nothing that was promised to last needs it.
func (s *Store) doubtful(fi fs.FileInfo) bool {
	return fi.Mode().Perm() == modeWritten && fi.ModTime().Before(s.boot)
}

// whole reports whether a blob's file can be relied on to be what was written, short of rot: one that was never synced and has lived through a
// start of the machine is read, once, and dropped if it is not.
func (s *Store) whole(path string, d digest.Digest, fi fs.FileInfo) bool {
	if !s.doubtful(fi) {
		return true
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	verifier := d.Verifier()
	if _, err := io.Copy(verifier, f); err != nil {
		return false
	}
	if !verifier.Verified() {
		dropFile(f)
		return false
	}
	// It was read from the disk, so it is there.
	_ = f.Chmod(modeDurable)
	return true
}

// bootTime is when the machine was started, by its clock of today; the zero time where that cannot be known.
func bootTime() time.Time {
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}
