package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fakeLayers gives out the layers that it was told of.
type fakeLayers struct {
	there map[ChainID]bool
	held  map[ChainID]int
}

type fakeLayer ChainID

func (l fakeLayer) ChainID() ChainID                  { return ChainID(l) }
func (l fakeLayer) DiffID() digest.Digest             { return digest.Digest(l) }
func (l fakeLayer) Parent() StoredLayer               { return nil }
func (l fakeLayer) TarStream() (io.ReadCloser, error) { return nil, errors.New("no content") }
func (l fakeLayer) Size() int64                       { return 7 }
func (l fakeLayer) DiffSize() int64                   { return 7 }

func (f *fakeLayers) Get(id ChainID) (StoredLayer, error) {
	if !f.there[id] {
		return nil, fmt.Errorf("layer %s: %w", id, ErrLayerDoesNotExist)
	}
	f.held[id]++
	return fakeLayer(id), nil
}

func (f *fakeLayers) Release(l StoredLayer) ([]LayerMetadata, error) {
	if f.held[l.ChainID()]--; f.held[l.ChainID()] > 0 {
		return nil, nil
	}
	return []LayerMetadata{{ChainID: l.ChainID(), DiffID: l.DiffID(), Size: l.Size(), DiffSize: l.DiffSize()}}, nil
}

// storeCase is a kind of store and how layers get into it.
type storeCase struct {
	name  string
	store Store
	// again opens the same images once more.
	again func() (Store, error)
	// diffID is a layer that is there.
	diffID digest.Digest
	// spoil damages the config of an image.
	spoil func(ID)
}

// storeCases are a Store in a directory of its own, and that of a cairn store.
func storeCases(t *testing.T) []storeCase {
	t.Helper()
	dir := t.TempDir()
	backend, err := NewFSStoreBackend(dir)
	if err != nil {
		t.Fatal(err)
	}
	diffID := digest.FromString("a layer")
	fake := func() *fakeLayers { return &fakeLayers{there: map[ChainID]bool{diffID: true}, held: map[ChainID]int{}} }
	own, err := NewImageStore(backend, fake())
	if err != nil {
		t.Fatal(err)
	}
	lo := newLocal(t)
	local, err := lo.Store()
	if err != nil {
		t.Fatal(err)
	}
	l := putLayer(t, lo, map[string]string{"file": "content"})
	return []storeCase{
		{"directory", own, func() (Store, error) { return NewImageStore(backend, fake()) }, diffID, func(id ID) {
			overwrite(t, dir+"/content/sha256/"+id.Digest().Encoded())
		}},
		{"local", local, lo.Store, l.DiffID, func(id ID) {
			overwrite(t, lo.store.Root()+"/blobs/sha256/"+id.Digest().Encoded())
		}},
	}
}

// putLayer makes a layer of files and keeps it.
func putLayer(t *testing.T, lo *Local, files map[string]string) layer.Layer {
	t.Helper()
	w, err := lo.store.NewBlob(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	lw, err := layer.NewWriter(w, layer.Compression{})
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		e := layer.Entry{Path: n, Type: layer.File, Mode: 0o644, Size: int64(len(files[n])), ModTime: time.Unix(1, 0)}
		if err := lw.Add(e, strings.NewReader(files[n])); err != nil {
			t.Fatal(err)
		}
	}
	diffID, mediaType, ix, err := lw.Close()
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	d.MediaType = mediaType
	l := layer.Layer{DiffID: diffID, Descriptor: d}
	if err := lo.store.PutLayer(l, ix); err != nil {
		t.Fatal(err)
	}
	return l
}

// config is an image config with layers.
func config(t *testing.T, comment string, diffIDs ...digest.Digest) []byte {
	t.Helper()
	created := time.Unix(1600000000, 0).UTC()
	img := Image{V1Image: V1Image{OS: "linux", Architecture: "amd64", Comment: comment, Created: &created}, RootFS: NewRootFS()}
	for _, d := range diffIDs {
		img.RootFS.Append(d)
		img.History = append(img.History, ocispec.History{CreatedBy: "RUN " + d.Encoded()[:4]})
	}
	data, err := json.Marshal(&img)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func eachStore(t *testing.T, f func(t *testing.T, c storeCase)) {
	for _, c := range storeCases(t) {
		t.Run(c.name, func(t *testing.T) { f(t, c) })
	}
}

func create(t *testing.T, s Store, config []byte) ID {
	t.Helper()
	id, err := s.Create(config)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestStoreCreateAndGet(t *testing.T) {
	eachStore(t, func(t *testing.T, c storeCase) {
		conf := config(t, "one", c.diffID)
		id := create(t, c.store, conf)
		if id.Digest() != digest.FromBytes(conf) {
			t.Errorf("ID %s", id)
		}
		if again := create(t, c.store, conf); again != id || c.store.Len() != 1 {
			t.Errorf("a second time: %s, %d images", again, c.store.Len())
		}
		img, err := c.store.Get(id)
		if err != nil || img.ID() != id || string(img.RawJSON()) != string(conf) || img.Comment != "one" {
			t.Errorf("Get: %+v %v", img, err)
		}
		if _, err := c.store.Get(ID(digest.FromString("none"))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Get of what is not there: %v", err)
		}
		// An image without layers needs none.
		empty := create(t, c.store, config(t, "empty"))
		if _, err := c.store.Get(empty); err != nil {
			t.Error(err)
		}
	})
}

func TestStoreCreateRefuses(t *testing.T) {
	eachStore(t, func(t *testing.T, c storeCase) {
		for name, bad := range map[string]string{
			"no JSON":          "{",
			"no rootfs":        `{"os":"linux"}`,
			"history too long": `{"rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"RUN"}]}`,
			"unknown layer":    string(config(t, "", digest.FromString("nowhere"))),
			"no digest":        `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["../../x"]}}`,
		} {
			if id, err := c.store.Create([]byte(bad)); err == nil {
				t.Errorf("%s: %s was created", name, id)
			}
		}
		if _, err := c.store.Create(config(t, "", digest.FromString("nowhere"))); !errors.Is(err, ErrLayerDoesNotExist) {
			t.Errorf("unknown layer: %v", err)
		}
		if c.store.Len() != 0 {
			t.Errorf("%d images", c.store.Len())
		}
	})
}

func TestStoreParents(t *testing.T) {
	eachStore(t, func(t *testing.T, c storeCase) {
		s := c.store
		a, b, d := create(t, s, config(t, "a", c.diffID)), create(t, s, config(t, "b", c.diffID)), create(t, s, config(t, "d", c.diffID))
		if _, err := s.GetParent(a); err == nil {
			t.Error("GetParent where none was set")
		}
		nobody := ID(digest.FromString("nobody"))
		if s.SetParent(a, nobody) == nil || s.SetParent(nobody, a) == nil {
			t.Error("SetParent with an unknown image")
		}
		for _, child := range []ID{b, d} {
			if err := s.SetParent(child, a); err != nil {
				t.Fatal(err)
			}
		}
		want := []ID{b, d}
		slices.Sort(want)
		if got := s.Children(a); !slices.Equal(got, want) {
			t.Errorf("Children %v, want %v", got, want)
		}
		if p, err := s.GetParent(b); err != nil || p != a {
			t.Errorf("GetParent: %s %v", p, err)
		}
		if img, err := s.Get(b); err != nil || img.Parent != a {
			t.Errorf("Get: parent %s, %v", img.Parent, err)
		}
		if m := s.Map(); len(m) != 3 || m[a].ID() != a {
			t.Errorf("Map %v", m)
		}
		if h := s.Heads(); len(h) != 2 || h[a] != nil {
			t.Errorf("Heads %v", h)
		}
		// Another parent: the first loses the child.
		if err := s.SetParent(d, b); err != nil {
			t.Fatal(err)
		}
		if got := s.Children(a); !slices.Equal(got, []ID{b}) {
			t.Errorf("Children %v", got)
		}
		if _, err := s.Delete(a); err != nil {
			t.Fatal(err)
		}
		if p, err := s.GetParent(b); err == nil {
			t.Errorf("the child still has the parent %s", p)
		}
		if p, err := s.GetParent(d); err != nil || p != b {
			t.Errorf("another child's parent: %s %v", p, err)
		}
	})
}

func TestStoreDelete(t *testing.T) {
	eachStore(t, func(t *testing.T, c storeCase) {
		a, b := create(t, c.store, config(t, "a", c.diffID)), create(t, c.store, config(t, "b", c.diffID))
		free, err := c.store.Delete(a)
		if err != nil || len(free) != 0 {
			t.Errorf("a layer that another image needs: %v %v", free, err)
		}
		if c.store.Len() != 1 {
			t.Errorf("%d images", c.store.Len())
		}
		if free, err = c.store.Delete(b); err != nil || len(free) != 1 || free[0].ChainID != c.diffID || free[0].Size != 7 {
			t.Errorf("the last image: %+v %v", free, err)
		}
		if _, err := c.store.Delete(b); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a second time: %v", err)
		}
		if _, err := c.store.Get(b); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Get: %v", err)
		}
		if _, err := c.store.Search(b.String()); err == nil {
			t.Error("it is still found")
		}
	})
}

func TestStoreSearch(t *testing.T) {
	eachStore(t, func(t *testing.T, c storeCase) {
		// Among 60 images some begin with the same two digits.
		byPrefix := map[string][]ID{}
		for i := range 60 {
			id := create(t, c.store, config(t, fmt.Sprint(i)))
			byPrefix[id.Digest().Encoded()[:2]] = append(byPrefix[id.Digest().Encoded()[:2]], id)
		}
		ambiguous := false
		for prefix, ids := range byPrefix {
			got, err := c.store.Search(prefix)
			if len(ids) == 1 && (err != nil || got != ids[0]) {
				t.Errorf("Search(%s): %s %v, want %s", prefix, got, err, ids[0])
			}
			if len(ids) > 1 {
				ambiguous = true
				if err == nil {
					t.Errorf("Search(%s) found %s among %d", prefix, got, len(ids))
				}
			}
			if got, err := c.store.Search(ids[0].String()); err != nil || got != ids[0] {
				t.Errorf("Search of a whole ID: %s %v", got, err)
			}
		}
		if !ambiguous {
			t.Fatal("the case of an ambiguous prefix was not tested")
		}
		for _, none := range []string{"", "sha256:", "xyz", "0123456789abcdef0123456789abcdef", "../.."} {
			if got, err := c.store.Search(none); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Search(%q): %s %v", none, got, err)
			}
		}
	})
}

func TestStoreLastUpdatedAndBuiltLocally(t *testing.T) {
	eachStore(t, func(t *testing.T, c storeCase) {
		id := create(t, c.store, config(t, "a"))
		if at, err := c.store.GetLastUpdated(id); err != nil || !at.IsZero() {
			t.Errorf("never updated: %v %v", at, err)
		}
		if built, err := c.store.IsBuiltLocally(id); err != nil || built {
			t.Errorf("never built: %v %v", built, err)
		}
		before := time.Now().Add(-time.Second)
		if err := errors.Join(c.store.SetLastUpdated(id), c.store.SetBuiltLocally(id)); err != nil {
			t.Fatal(err)
		}
		if at, err := c.store.GetLastUpdated(id); err != nil || at.Before(before) || at.After(time.Now()) {
			t.Errorf("updated: %v %v", at, err)
		}
		if built, err := c.store.IsBuiltLocally(id); err != nil || !built {
			t.Errorf("built: %v %v", built, err)
		}
		if c.store.SetLastUpdated(ID(digest.FromString("nobody"))) == nil {
			t.Error("SetLastUpdated of an unknown image")
		}
	})
}

// TestNewImageStoreRestores: what one Store has created another one finds, and damaged entries keep nobody from the others.
func TestNewImageStoreRestores(t *testing.T) {
	eachStore(t, func(t *testing.T, c storeCase) {
		a, b := create(t, c.store, config(t, "a", c.diffID)), create(t, c.store, config(t, "b", c.diffID))
		if err := c.store.SetParent(b, a); err != nil {
			t.Fatal(err)
		}
		again, err := c.again()
		if err != nil {
			t.Fatal(err)
		}
		if again.Len() != 2 || !slices.Equal(again.Children(a), []ID{b}) {
			t.Errorf("%d images, children %v", again.Len(), again.Children(a))
		}
		c.spoil(a)
		if again, err = c.again(); err != nil {
			t.Fatal(err)
		}
		if again.Len() != 1 || again.Map()[b] == nil {
			t.Errorf("beside a damaged one: %v", again.Map())
		}
	})
}

// TestStoreSkipsLostLayers: an entry whose layers are gone is passed over.
func TestStoreSkipsLostLayers(t *testing.T) {
	backend, err := NewFSStoreBackend(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, conf := range [][]byte{config(t, "lost", digest.FromString("gone")), config(t, "kept"), []byte("no config")} {
		if _, err := backend.Set(conf); err != nil {
			t.Fatal(err)
		}
	}
	s, err := NewImageStore(backend, &fakeLayers{held: map[ChainID]int{}})
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Map(); len(m) != 1 || s.Len() != 1 {
		t.Errorf("%v", m)
	}
}

// TestLocalStoreIsAView: what is named is in the Store, what is created there can be named, and both end together.
func TestLocalStoreIsAView(t *testing.T) {
	lo := newLocal(t)
	s, err := lo.Store()
	if err != nil {
		t.Fatal(err)
	}
	base := putLayer(t, lo, map[string]string{"a": "1"})
	top := putLayer(t, lo, map[string]string{"b": "2"})
	spec := testSpec()
	spec.Base, spec.Layers = []layer.Layer{base}, []Layer{{Layer: top, Created: at(500)}}
	spec.Config.History = []ocispec.History{{CreatedBy: "ADD a"}, {CreatedBy: "RUN b"}}
	spec.OwnHistory = 1
	set, err := Assemble([]Spec{spec}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lo.Put(context.Background(), set, []string{"app"}); err != nil {
		t.Fatal(err)
	}
	id := ID(set.ConfigDigest())
	img, err := s.Get(id)
	if err != nil || s.Len() != 1 || img.RootFS.ChainID() == "" {
		t.Fatalf("a build's image in the Store: %+v %v (%d)", img, err, s.Len())
	}
	if built, err := s.IsBuiltLocally(id); err != nil || !built {
		t.Errorf("IsBuiltLocally: %v %v", built, err)
	}
	if img = s.Map()[id]; img.Details == nil || img.Details.ManifestDescriptor.Digest != set.Descriptor.Digest {
		t.Errorf("Details %+v", img.Details)
	}
	layers := lo.Layers()
	l, err := layers.Get(img.RootFS.ChainID())
	if err != nil || l.DiffID() != top.DiffID || l.Parent().DiffID() != base.DiffID || l.Parent().Parent() != nil || l.Size() != 2 || l.DiffSize() != 1 {
		t.Errorf("layer %+v %v", l, err)
	}
	r, err := l.TarStream()
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(r); err != nil || digest.FromBytes(data) != top.DiffID {
		t.Errorf("TarStream: %v", err)
	}
	if free, err := layers.Release(l); err != nil || len(free) != 2 || free[0].DiffID != top.DiffID {
		t.Errorf("Release: %+v %v", free, err)
	}
	if _, err := layers.Release(l); !errors.Is(err, ErrLayerNotRetained) {
		t.Errorf("a second Release: %v", err)
	}
	// A child made through the contract.
	child := NewChildImage(img, ChildConfig{Comment: "child"}, "linux")
	conf, err := json.Marshal(child)
	if err != nil {
		t.Fatal(err)
	}
	cid := create(t, s, conf)
	if err := s.SetParent(cid, id); err != nil {
		t.Fatal(err)
	}
	if _, err := lo.Tag(cid.String(), "child:v1"); err != nil {
		t.Fatal(err)
	}
	if got, err := lo.Get("child:v1"); err != nil || got.ConfigDigest() != cid.Digest() || len(got.Images[0].Layers) != 2 {
		t.Errorf("by its name: %v %v", got.ConfigDigest(), err)
	}
	if _, err := s.Delete(cid); err != nil {
		t.Fatal(err)
	}
	if entries, err := lo.List(); err != nil || len(entries) != 1 {
		t.Errorf("names left: %v %v", entries, err)
	}
	if _, err := lo.Delete("app", DeleteOptions{}); err != nil || s.Len() != 0 {
		t.Errorf("after the last name is gone: %d images, %v", s.Len(), err)
	}
}

func TestMaxLayerDepth(t *testing.T) {
	lo := newLocal(t)
	s, err := lo.Store()
	if err != nil {
		t.Fatal(err)
	}
	l := putLayer(t, lo, map[string]string{"a": "1"})
	depth := func(n int) []byte { return config(t, "deep", slices.Repeat([]digest.Digest{l.DiffID}, n)...) }
	create(t, s, depth(MaxLayerDepth))
	if _, err := s.Create(depth(MaxLayerDepth + 1)); !errors.Is(err, ErrMaxDepthExceeded) {
		t.Errorf("one more: %v", err)
	}
}
