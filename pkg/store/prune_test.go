package store

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image puts an image with one layer and returns its manifest.
func image(t *testing.T, s *Store, name string) (manifest ocispec.Descriptor, l layer.Layer) {
	t.Helper()
	l = layer.Layer{DiffID: digest.FromString(name + " tar"), Descriptor: putBlob(t, s, name+" layer")}
	if err := s.PutLayer(l, nil); err != nil {
		t.Fatal(err)
	}
	config, _ := json.Marshal(ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}}})
	data, _ := json.Marshal(ocispec.Manifest{Config: putBlob(t, s, string(config)), Layers: []ocispec.Descriptor{l.Descriptor}})
	manifest = putBlob(t, s, string(data))
	manifest.MediaType = ocispec.MediaTypeImageManifest
	dir, err := s.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitSnapshot(l.DiffID, dir); err != nil {
		t.Fatal(err)
	}
	return manifest, l
}

func TestPrune(t *testing.T) {
	s := newStore(t)
	named, namedLayer := image(t, s, "named")
	inIndex, indexLayer := image(t, s, "in index")
	_, recordLayer := image(t, s, "in record")
	_, goneLayer := image(t, s, "gone")
	index, _ := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{inIndex, {Digest: digest.FromString("other platform")}}})
	if err := errors.Join(
		s.SetRef("named", named),
		s.SetRef("index", putBlob(t, s, string(index))),
		s.PutRecord("cache", "key", []byte(`{"layer":{"diffID":"`+recordLayer.DiffID.String()+`"}}`)),
	); err != nil {
		t.Fatal(err)
	}
	cacheDir := keepCacheDir(t, s, "kept")
	if p := s.Check(t.Context(), true); len(p) > 0 {
		t.Errorf("before: %v", p)
	}
	done, err := s.Prune(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The layers, configs and manifests of "gone", config and manifest of "in record".
	if done.Blobs != 5 || done.Layers != 1 || done.Snapshots != 2 {
		t.Errorf("pruned %+v", done)
	}
	for name, l := range map[string]layer.Layer{"named": namedLayer, "in index": indexLayer, "in record": recordLayer} {
		if _, ok := s.HasBlob(l.Descriptor.Digest); !ok {
			t.Errorf("blob %s is gone", name)
		}
		if _, err := s.Layer(l.DiffID); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Snapshot(namedLayer.DiffID); err != nil {
		t.Error(err)
	}
	if _, ok := s.HasBlob(goneLayer.Descriptor.Digest); ok {
		t.Error("the blob nobody names is still there")
	}
	if _, err := os.Stat(cacheDir); err != nil {
		t.Error(err)
	}
	wantNoProblems(t, s)

	// Delete in the reverse order of writing: name first, then the rest goes.
	if err := errors.Join(s.DeleteRef("named"), s.DeleteRef("index"), s.DeleteRecord("cache", "key")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	for b := range s.Blobs() {
		t.Errorf("%s is left", b.Digest)
	}
}

func TestPruneBusy(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	s := openStore(t, root)
	d := putBlob(t, s, "unnamed")
	other := openStore(t, root)
	if _, err := s.Prune(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("with another process: %v", err)
	}
	// The shared lock is held again: the other one must not get the exclusive one.
	if _, err := other.Prune(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("after a prune in vain: %v", err)
	}
	other.Close()
	w, err := s.NewBlob(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("with a blob half written: %v", err)
	}
	w.Abort()
	if _, ok := s.HasBlob(d.Digest); !ok {
		t.Error("a busy prune removed something")
	}
	if done, err := s.Prune(t.Context()); err != nil || done.Blobs != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestPruneStopsAtDamage(t *testing.T) {
	s := newStore(t)
	manifest, l := image(t, s, "app")
	if err := s.SetRef("app", manifest); err != nil {
		t.Fatal(err)
	}
	path, _ := s.blobPath(manifest.Digest)
	overwrite(t, path, []byte(`{"layers":[]}`))
	if _, err := s.Prune(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("pruned by a damaged manifest: %v", err)
	}
	if _, ok := s.HasBlob(l.Descriptor.Digest); !ok {
		t.Error("removed a layer though its manifest cannot be read")
	}

	s = newStore(t)
	manifest, l = image(t, s, "app")
	if err := s.SetRef("app", manifest); err != nil {
		t.Fatal(err)
	}
	overwrite(t, s.path(refsDir, "app"), nil)
	if _, err := s.Prune(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("pruned by a damaged ref: %v", err)
	}
	if _, ok := s.HasBlob(l.Descriptor.Digest); !ok {
		t.Error("removed a layer though its ref cannot be read")
	}
}

func TestBlobsWalk(t *testing.T) {
	s := newStore(t)
	var want []digest.Digest
	for _, content := range []string{"a", "b", "c"} {
		want = append(want, putBlob(t, s, content).Digest)
	}
	if err := os.WriteFile(s.path(blobsDir, "sha256", "junk"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var got []digest.Digest
	problems := 0
	for b, err := range s.Blobs() {
		if err != nil {
			problems++
			continue
		}
		got = append(got, b.Digest)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) || problems != 1 {
		t.Errorf("got %v with %d problems", got, problems)
	}
}

// Digests are found wherever they stand in a document, also across what is read of it at once.
func TestDigestsIn(t *testing.T) {
	d := digest.FromString("x")
	for _, filler := range []string{"\x00", "sha256:", "a"} {
		for n := range 300 {
			before := strings.Repeat(filler, (32<<10-150)/len(filler)) + strings.Repeat("-", n)
			doc := before + d.String() + "," + digest.FromString("y").String() + filler + d.String()[:70]
			var got []digest.Digest
			err := digestsIn(strings.NewReader(doc), func(d digest.Digest) error {
				got = append(got, d)
				return nil
			})
			if err != nil || len(got) != 2 || got[0] != d || got[1] != digest.FromString("y") {
				t.Fatalf("behind %d bytes: %v, %v", len(before), got, err)
			}
		}
	}
	stop := errors.New("stop")
	if err := digestsIn(strings.NewReader(d.String()), func(digest.Digest) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	if err := digestsIn(iotest.ErrReader(stop), func(digest.Digest) error { return nil }); !errors.Is(err, stop) {
		t.Error(err)
	}
}
