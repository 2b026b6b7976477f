package image

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/store"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func newLocal(t *testing.T) *Local {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return NewLocal(s)
}

func TestLocal(t *testing.T) {
	lo := newLocal(t)
	ctx := context.Background()
	spec := testSpec()
	spec.Base[0].Origin = "example.com/base"
	one, err := Assemble([]Spec{spec}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	arm := testSpec()
	arm.Platform = ocispec.Platform{OS: "linux", Architecture: "arm64"}
	two, err := Assemble([]Spec{testSpec(), arm}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	names, err := lo.Put(ctx, one, []string{"app", "example.com/app:v1"})
	if err != nil || !slices.Equal(names, []string{"docker.io/library/app:latest", "example.com/app:v1"}) {
		t.Fatalf("Put: %v %v", names, err)
	}
	if _, err := lo.Put(ctx, two, []string{"multi"}); err != nil {
		t.Fatal(err)
	}
	if names, err = lo.Put(ctx, one, nil); err != nil || !slices.Equal(names, []string{one.Descriptor.Digest.String()}) {
		t.Fatalf("Put without a name: %v %v", names, err)
	}
	for _, ref := range []string{"app", "app:latest", "docker.io/library/app:latest", one.ConfigDigest().String(), one.ConfigDigest().Encoded()[:8],
		one.Descriptor.Digest.String()} {
		got, err := lo.Get(ref)
		if err != nil {
			t.Errorf("Get(%q): %v", ref, err)
			continue
		}
		b := got.Images[0]
		if !bytes.Equal(b.Manifest, one.Images[0].Manifest) || !bytes.Equal(b.Config, one.Images[0].Config) || got.Index != nil ||
			b.Layers[0].Origin != "example.com/base" || b.Layers[3].DiffID != testLayer("b").DiffID || !b.Created.Equal(at(600)) {
			t.Errorf("Get(%q) = %+v", ref, got)
		}
	}
	got, err := lo.Get("multi")
	if err != nil || len(got.Images) != 2 || !bytes.Equal(got.Index, two.Index) || got.Images[1].Descriptor.Platform.Architecture != "arm64" {
		t.Errorf("Get(multi) = %+v, %v", got, err)
	}
	for _, ref := range []string{"nothing", "app:v9", "0123456789ab", "sha256:00", "UPPER", "", "sha256:"} {
		if _, err := lo.Get(ref); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Get(%q): error %v", ref, err)
		}
	}
	gone, err := lo.Delete("app", DeleteOptions{})
	if err != nil || len(gone) != 1 || gone[0].Untagged != "app:latest" {
		t.Errorf("Delete(app): %v %v", gone, err)
	}
	if gone, err = lo.Delete(one.ConfigDigest().Encoded(), DeleteOptions{}); err != nil || len(gone) != 2 || gone[1].Deleted != one.ConfigDigest().String() {
		t.Errorf("Delete by ID: %v %v", gone, err)
	}
	entries, err := lo.List()
	if err != nil || len(entries) != 1 || entries[0].Name != "docker.io/library/multi:latest" {
		t.Errorf("List: %v %v", entries, err)
	}
}

// What a store holds may be of a registry: wrong content is an error, never a panic.
func TestLocalDamaged(t *testing.T) {
	lo := newLocal(t)
	ctx := context.Background()
	for i, manifest := range []string{`null`, `{}`, `[]`, `{"config":{"digest":"nope"}}`, `{"config":{"digest":"sha256:../../x"}}`,
		`{"layers":[{}],"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}}`} {
		if _, err := lo.store.PutBlob(ctx, "", []byte("{}")); err != nil {
			t.Fatal(err)
		}
		d, err := lo.store.PutBlob(ctx, "", []byte(manifest))
		if err != nil {
			t.Fatal(err)
		}
		d.MediaType = ocispec.MediaTypeImageManifest
		if err := lo.store.SetRef("docker.io/library/bad:latest", d); err != nil {
			t.Fatal(err)
		}
		if _, err := lo.Get("bad"); err == nil {
			t.Errorf("%d: %s was accepted", i, manifest)
		}
		if _, err := lo.Get("abcd"); err == nil {
			t.Errorf("%d: an unknown ID was found", i)
		}
		d.MediaType = ocispec.MediaTypeImageIndex
		if err := lo.store.SetRef("docker.io/library/bad:latest", d); err != nil {
			t.Fatal(err)
		}
		if _, err := lo.Get("bad"); err == nil {
			t.Errorf("%d: %s was accepted as an index", i, manifest)
		}
	}
}

// TestNamesMove: a build supersedes what had its name; a tag leaves the image without one.
func TestNamesMove(t *testing.T) {
	lo := newLocal(t)
	st, err := lo.Store()
	if err != nil {
		t.Fatal(err)
	}
	old := build(t, lo, []string{"app"}, "old")
	now := build(t, lo, []string{"app"}, "now")
	if st.Len() != 1 {
		t.Errorf("%d images after a second build", st.Len())
	}
	if _, err := lo.store.Record(metadataBucket, metadataKey(old.ConfigDigest(), builtLocallyKey)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is known of the superseded image: %v", err)
	}
	other := build(t, lo, []string{"other"}, "other")
	if _, err := lo.Tag("other", "app"); err != nil {
		t.Fatal(err)
	}
	if names, err := lo.Names(now.ConfigDigest().String()); err != nil || len(names) != 0 || st.Len() != 2 {
		t.Errorf("names %v, %d images, %v", names, st.Len(), err)
	}
	// An image that others were made from stays.
	child := build(t, lo, []string{"child"}, "other", "child")
	if err := st.SetParent(ID(child.ConfigDigest()), ID(other.ConfigDigest())); err != nil {
		t.Fatal(err)
	}
	build(t, lo, []string{"app", "other"}, "new")
	if p, err := st.GetParent(ID(child.ConfigDigest())); err != nil || st.Len() != 4 || p.Digest() != other.ConfigDigest() {
		t.Errorf("parent %s, %d images, %v", p, st.Len(), err)
	}
	if _, err := lo.Delete(other.ConfigDigest().String(), DeleteOptions{Force: true}); !errors.Is(err, ErrConflict) {
		t.Errorf("deleting a parent: %v", err)
	}
	gone, err := lo.Delete("child", DeleteOptions{})
	if err != nil || len(gone) != 3 || gone[2].Deleted != other.ConfigDigest().String() {
		t.Errorf("deleting the last child, with its parent: %+v %v", gone, err)
	}
}

// A name whose record is damaged keeps prune from removing what it led to; it can be taken away, and then prune works again.
func TestLocalDamagedName(t *testing.T) {
	lo := newLocal(t)
	one, err := Assemble([]Spec{testSpec()}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lo.Put(t.Context(), one, []string{"bad"}); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(lo.store.Root(), "refs", "*bad*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lo.store.Prune(t.Context()); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "hint: cairn rmi docker.io/library/bad:latest") {
		t.Errorf("Prune: %v", err)
	}
	if out, err := lo.Delete("bad", DeleteOptions{}); err != nil || len(out) != 1 || out[0].Untagged != "bad:latest" {
		t.Errorf("Delete: %v, %v", out, err)
	}
	if _, err := lo.store.Prune(t.Context()); err != nil {
		t.Errorf("Prune after that: %v", err)
	}
}
