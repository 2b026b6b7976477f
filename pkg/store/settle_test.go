package store_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func blobMode(t *testing.T, s *store.Store, d digest.Digest) os.FileMode {
	t.Helper()
	fi, err := os.Stat(blobFile(s, d))
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode().Perm()
}

func blobFile(s *store.Store, d digest.Digest) string {
	return filepath.Join(s.Root(), "blobs", "sha256", d.Encoded())
}

// TestSetRefSettles looks at the modes that tell synced blobs from others: syncs themselves leave no trace.
func TestSetRefSettles(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put := func(data string) ocispec.Descriptor {
		d, err := s.PutBlob(t.Context(), "x", []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	layer, config, other := put("layer"), put("{}"), put("other")
	manifest, err := json.Marshal(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer}})
	if err != nil {
		t.Fatal(err)
	}
	m := put(string(manifest))
	if got := blobMode(t, s, layer.Digest); got != 0o400 {
		t.Errorf("a blob nobody has named has mode %o", got)
	}
	if err := s.SetRef("name", m); err != nil {
		t.Fatal(err)
	}
	for _, d := range []ocispec.Descriptor{layer, config, m} {
		if got := blobMode(t, s, d.Digest); got != 0o444 {
			t.Errorf("blob %s, which a ref leads to, has mode %o", d.Digest, got)
		}
	}
	if got := blobMode(t, s, other.Digest); got != 0o400 {
		t.Errorf("a blob no ref leads to has mode %o", got)
	}
	// Written again, it must not fall behind.
	w, err := s.NewBlob(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("layer")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(""); err != nil {
		t.Fatal(err)
	}
	if got := blobMode(t, s, layer.Digest); got != 0o444 {
		t.Errorf("a durable blob that was written again has mode %o", got)
	}
}

// TestPowerCut shows blobs as a power cut leaves them: older than the start of the machine, never synced, whole or not.
func TestPowerCut(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	long := time.Unix(1, 0)
	for _, c := range []struct {
		name string
		do   func(path string) error
		want bool
	}{
		{"whole", func(string) error { return nil }, true},
		{"empty", func(p string) error { return os.Truncate(p, 0) }, false},
		{"zeros", func(p string) error { return os.WriteFile(p, make([]byte, 5), 0) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := s.PutBlob(t.Context(), "x", []byte(c.name))
			if err != nil {
				t.Fatal(err)
			}
			path := blobFile(s, d.Digest)
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.do(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, 0o400); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, long, long); err != nil {
				t.Fatal(err)
			}
			if _, ok := s.HasBlob(d.Digest); ok != c.want {
				t.Errorf("the blob is held: %t", ok)
			}
			if _, err := os.Lstat(path); (err == nil) != c.want {
				t.Errorf("the file is there: %t", err == nil)
			}
		})
	}
}
