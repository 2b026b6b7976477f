package overlay_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/snapshot"
)

// TestCommitEarly: what follows stands on a layer whose blob is still to come, and the layer becomes the one that Commit makes.
func TestCommitEarly(t *testing.T) {
	inside(t)
	st, _ := newChain(t, t.TempDir(), 0)
	ro, err := newSnapshotter(t, st, storeBlob(st)).Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("content "), 1<<20)
	layerOf := func() snapshot.RWLayer {
		rw, err := ro.NewRWLayer()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(rw.Root(), "file"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(rw.Root(), "file"), time.Unix(1000, 0), time.Unix(1000, 0)); err != nil {
			t.Fatal(err)
		}
		return rw
	}
	early := layerOf()
	top, rest, err := early.(snapshot.Early).CommitEarly(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	above, err := top.NewRWLayer()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(above.Root(), "file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the layer above sees %d bytes, %v", len(got), err)
	}
	l, err := rest()
	if err != nil {
		t.Fatal(err)
	}
	if known, err := st.Layer(top.DiffID()); err != nil || known.Descriptor.Digest != l.Descriptor.Digest {
		t.Errorf("the store knows %+v, %v", known, err)
	}
	plain := layerOf()
	same, err := plain.Commit()
	if err != nil {
		t.Fatal(err)
	}
	if chain := same.Chain(); chain[0].DiffID != l.DiffID || chain[0].Descriptor.Digest != l.Descriptor.Digest {
		t.Errorf("Commit makes %+v, CommitEarly %+v", chain[0], l)
	}
	if err := errors.Join(above.Release(), early.Release(), plain.Release(), top.Release(), same.Release(), ro.Release()); err != nil {
		t.Error(err)
	}
}

// TestCommitEarlyForbids: a layer that must not be is refused at once, and nothing of it is kept.
func TestCommitEarlyForbids(t *testing.T) {
	inside(t)
	st, _ := newChain(t, t.TempDir(), 0)
	ro, err := newSnapshotter(t, st, storeBlob(st)).Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rw, err := ro.NewRWLayer()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rw.Root(), "file"), append(make([]byte, 3<<20), "the secret"...), 0o644); err != nil {
		t.Fatal(err)
	}
	rw.(snapshot.Guarded).Forbid([][]byte{[]byte("the secret")})
	var found *layer.ForbiddenError
	if _, _, err := rw.(snapshot.Early).CommitEarly(t.Context()); !errors.As(err, &found) {
		t.Errorf("it ended with %v", err)
	}
	for b, err := range st.Blobs() {
		t.Errorf("a blob was kept: %+v, %v", b, err)
	}
	if err := errors.Join(rw.Release(), ro.Release()); err != nil {
		t.Error(err)
	}
}
