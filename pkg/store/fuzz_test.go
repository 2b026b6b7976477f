package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzRecord: a file of the store in which anything stands is what was written, or counts as missing.
func FuzzRecord(f *testing.F) {
	root := filepath.Join(f.TempDir(), "store")
	s, err := Open(root)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	if err := s.PutRecord("seed", "key", []byte(`{"a":1}`)); err != nil {
		f.Fatal(err)
	}
	path, err := s.recordPath("seed", "key")
	if err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{good, good[:len(good)-1], append(bytes.Clone(good), '\n'), nil, []byte(sealHeader), good[:sealedLen], bytes.ToUpper(good)} {
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Add([]byte(`{"name":"YQ==","descriptor":{"digest":"sha256:../../x"}}`), true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		content := b
		if seal {
			// What a program with this format could have written.
			if err := s.putSealed(path, b, rebuildable); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Record("seed", "key")
		if seal && (err != nil || !bytes.Equal(got, content)) {
			t.Errorf("%q, %v, was written as %q", got, err, content)
		}
		if !seal && err == nil && !bytes.Equal(append(bytes.Clone(b[:sealedLen]), got...), b) {
			t.Errorf("%q was read of %q", got, b)
		}
		// The same bytes as a name, and as what a layer is.
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		id := digest.FromString("x")
		for _, other := range []string{s.path(refsDir, refFile("a")), s.path(layersDir, id.Encoded()), s.path(layersDir, id.Encoded()+indexSuffix)} {
			_ = os.RemoveAll(other)
			if err := os.WriteFile(other, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if d, err := s.Ref("a"); err == nil && d.Digest.Validate() != nil {
			t.Errorf("the name leads to %q", d.Digest)
		}
		_, _ = s.Layer(id)
		_, _ = s.LayerIndex(id)
		_, _ = s.Refs()
	})
}
