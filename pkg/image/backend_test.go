package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

func overwrite(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("damaged"), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func newBackend(t *testing.T) (StoreBackend, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "new", "images")
	b, err := NewFSStoreBackend(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b, dir
}

func TestFSBackendContent(t *testing.T) {
	b, dir := newBackend(t)
	id, err := b.Set([]byte("content"))
	if err != nil || id != digest.FromString("content") {
		t.Fatalf("%s %v", id, err)
	}
	path := filepath.Join(dir, "content", "sha256", id.Encoded())
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
	if data, err := b.Get(id); err != nil || string(data) != "content" {
		t.Errorf("%s %v", data, err)
	}
	for _, empty := range [][]byte{nil, {}} {
		if _, err := b.Set(empty); err == nil {
			t.Error("nothing was kept")
		}
	}
	if _, err := b.Get(digest.FromString("other")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	for _, bad := range []digest.Digest{"", "sha256:", "sha256:../../../etc/passwd", "sha256:zz", "sha512:" + digest.Digest(digest.FromString("x").Encoded())} {
		if _, err := b.Get(bad); err == nil {
			t.Errorf("Get(%q) worked", bad)
		}
	}
	overwrite(t, path)
	if data, err := b.Get(id); err == nil {
		t.Errorf("damaged content: %q", data)
	}
	if err := b.Delete(id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it was not deleted")
	}
}

func TestFSBackendMetadata(t *testing.T) {
	b, dir := newBackend(t)
	id, err := b.Set([]byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.SetMetadata(id, "key", []byte("value")); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "metadata", "sha256", id.Encoded(), "key")); err != nil || string(data) != "value" {
		t.Errorf("%s %v", data, err)
	}
	if data, err := b.GetMetadata(id, "key"); err != nil || string(data) != "value" {
		t.Errorf("%s %v", data, err)
	}
	if _, err := b.GetMetadata(id, "other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that is not there: %v", err)
	}
	none := digest.FromString("nothing")
	if b.SetMetadata(none, "key", nil) == nil || b.DeleteMetadata(none, "key") == nil {
		t.Error("metadata of what is not there")
	}
	if _, err := b.GetMetadata(none, "key"); err == nil {
		t.Error("metadata of what is not there")
	}
	for _, key := range []string{"", "..", "../x", "a/b", ".hidden", "a\x00"} {
		if b.SetMetadata(id, key, []byte("x")) == nil {
			t.Errorf("key %q was taken", key)
		}
	}
	if err := b.DeleteMetadata(id, "key"); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteMetadata(id, "key"); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := errors.Join(b.SetMetadata(id, "key", []byte("v")), b.Delete(id)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "metadata", "sha256", id.Encoded())); !errors.Is(err, fs.ErrNotExist) {
		t.Error("metadata outlive their image")
	}
}

func TestFSBackendWalk(t *testing.T) {
	b, dir := newBackend(t)
	var want []digest.Digest
	for _, s := range []string{"a", "b", "c"} {
		id, err := b.Set([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, id)
	}
	for _, name := range []string{"README", ".new-123", "ABC", "0123"} {
		if err := os.WriteFile(filepath.Join(dir, "content", "sha256", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got []digest.Digest
	if err := b.Walk(func(id digest.Digest) error { got = append(got, id); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	stop := errors.New("stop")
	n := 0
	if err := b.Walk(func(digest.Digest) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("after an error: %d calls, %v", n, err)
	}
}

// TestLocalBackend: the StoreBackend of a cairn store keeps the rules of the contract.
func TestLocalBackend(t *testing.T) {
	lo := newLocal(t)
	b := lo.Backend()
	if _, err := b.Set(nil); err == nil {
		t.Error("nothing was kept")
	}
	if _, err := b.Set(config(t, "x", digest.FromString("nowhere"))); err == nil {
		t.Error("an image without its layers was kept")
	}
	id, err := b.Set(config(t, "x", putLayer(t, lo, map[string]string{"f": "x"}).DiffID))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := b.Walk(func(d digest.Digest) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("Walk: %d %v", n, err)
	}
	if err := b.SetMetadata(digest.FromString("none"), "k", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("metadata of what is not there: %v", err)
	}
	if err := errors.Join(b.SetMetadata(id, parentKey, []byte("v")), b.Delete(id)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.GetMetadata(id, parentKey); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("metadata outlive their image: %v", err)
	}
}
