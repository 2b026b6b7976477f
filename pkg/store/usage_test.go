package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestUsageAndDropCaches(t *testing.T) {
	ctx := context.Background()
	root := filepath.Join(t.TempDir(), "store")
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	named, err := s.PutBlob(ctx, "", make([]byte, 1000))
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.PutBlob(ctx, "", make([]byte, 2000))
	if err != nil {
		t.Fatal(err)
	}
	dir := keepCacheDir(t, s, "cache")
	err = errors.Join(s.SetRef("name", named), s.PutRecord("steps", "old", []byte(other.Digest)), s.PutRecord("steps", "new", []byte("x")),
		s.PutRecord("images", "kept", []byte("x")), os.WriteFile(filepath.Join(dir, "file"), make([]byte, 100_000), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	// A file with two names counts once.
	if err := os.Link(filepath.Join(dir, "file"), filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	u, err := s.Usage(ctx)
	if err != nil || u.Images != 1000 || u.Caches < 102_000 || u.Caches > 200_000 || u.Records != 3 || u.CacheDirs != 1 {
		t.Errorf("%+v %v", u, err)
	}

	past := time.Now().Add(-time.Hour)
	path, err := s.recordPath("steps", "old")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, past, past); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DropCaches(ctx, []string{"../refs"}, time.Time{}); err == nil {
		t.Error("a bucket outside of the records")
	}
	done, err := s.DropCaches(ctx, []string{"steps", "none"}, past.Add(time.Minute))
	if err != nil || done != (Dropped{Records: 1}) {
		t.Errorf("%+v %v", done, err)
	}
	if _, err := s.Record("steps", "old"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old record: %v", err)
	}
	second, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.DropCaches(ctx, nil, time.Time{}); !errors.Is(err, ErrBusy) {
		t.Errorf("while somebody else is there: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if done, err = s.DropCaches(ctx, []string{"steps"}, time.Time{}); err != nil || done != (Dropped{Records: 1, CacheDirs: 1}) {
		t.Errorf("%+v %v", done, err)
	}
	if _, err := s.Record("images", "kept"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cache directory is still there")
	}
}
