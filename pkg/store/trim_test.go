package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
)

// TestTrim fills a store with eight records of 100 kB each, the first of which is used last.
func TestTrim(t *testing.T) {
	const size = 100_000
	buckets := []string{"steps"}
	fill := func(t *testing.T) (*store.Store, []digest.Digest) {
		t.Helper()
		s, err := store.Open(filepath.Join(t.TempDir(), "store"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		var blobs []digest.Digest
		for i := range 8 {
			d, err := s.PutBlob(t.Context(), "x", append(make([]byte, size), byte(i)))
			if err == nil {
				err = s.PutCacheRecord("steps", fmt.Sprint(i), []byte(d.Digest))
			}
			if err != nil {
				t.Fatal(err)
			}
			blobs = append(blobs, d.Digest)
		}
		s.TouchRecord("steps", "0")
		return s, blobs
	}
	left := func(s *store.Store, blobs []digest.Digest) (n int) {
		for i, d := range blobs {
			_, held := s.HasBlob(d)
			_, err := s.Record("steps", fmt.Sprint(i))
			if held != (err == nil) {
				t.Errorf("record %d and its blob have parted", i)
			}
			if held {
				n++
			}
		}
		return n
	}
	t.Run("size", func(t *testing.T) {
		s, blobs := fill(t)
		u, err := s.Usage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		done, err := s.Trim(t.Context(), buckets, store.Bound{MaxBytes: u.Caches - 3*size})
		if err != nil {
			t.Fatal(err)
		}
		if n := left(s, blobs); n < 3 || n > 5 || done.Records != 8-n {
			t.Errorf("%d of 8 records are left, %d are said to be gone", n, done.Records)
		}
		if _, held := s.HasBlob(blobs[0]); !held {
			t.Error("what was used last is gone")
		}
		if _, held := s.HasBlob(blobs[1]); held {
			t.Error("what was not used for longest is still there")
		}
		if u, err := s.Usage(t.Context()); err != nil || u.Caches > 5*size+size/2 {
			t.Errorf("%d bytes are left, %v", u.Caches, err)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		s, blobs := fill(t)
		if _, err := s.Trim(t.Context(), buckets, store.Bound{MaxBytes: 1 << 30}); err != nil || left(s, blobs) != 8 {
			t.Errorf("%d of 8 records are left below the bound, %v", left(s, blobs), err)
		}
	})
	t.Run("protected", func(t *testing.T) {
		s, blobs := fill(t)
		if _, err := s.Trim(t.Context(), buckets, store.Bound{Since: time.Now().Add(-time.Hour)}); err != nil || left(s, blobs) != 8 {
			t.Errorf("%d of 8 records are left, all of which were used in this hour; %v", left(s, blobs), err)
		}
	})
	t.Run("all", func(t *testing.T) {
		s, blobs := fill(t)
		if _, err := s.Trim(t.Context(), buckets, store.Bound{}); err != nil || left(s, blobs) != 0 {
			t.Errorf("%d of 8 records are left with a bound of nothing, %v", left(s, blobs), err)
		}
	})
	t.Run("busy", func(t *testing.T) {
		s, blobs := fill(t)
		other, err := store.Open(s.Root())
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if _, err := s.Trim(t.Context(), buckets, store.Bound{}); !errors.Is(err, store.ErrBusy) || left(s, blobs) != 8 {
			t.Errorf("with somebody else in the store: %d of 8 records are left, %v", left(s, blobs), err)
		}
	})
}
