package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
)

// noImages has no layer, as a machine without a network.
type noImages struct{}

func (noImages) Index(context.Context, layer.Layer) (*layer.Index, error) {
	return nil, errors.New("no layer is fetched here")
}

func (noImages) Blob(_ context.Context, l layer.Layer) (io.ReadCloser, error) {
	return nil, &layer.UnusableError{Layer: l, Err: errors.New("no layer is fetched here")}
}

// storeImages reads layers of a store.
type storeImages struct {
	noImages
	st *store.Store
}

func (s storeImages) Blob(_ context.Context, l layer.Layer) (io.ReadCloser, error) {
	return s.st.OpenBlob(l.Descriptor.Digest)
}

// realLayer writes a layer with one file into a store.
func realLayer(t *testing.T, st *store.Store, name, content string) layer.Layer {
	t.Helper()
	b, err := st.NewBlob(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Abort()
	w, err := layer.NewWriter(b, layer.Compression{})
	if err != nil {
		t.Fatal(err)
	}
	e := layer.Entry{Path: name, Type: layer.File, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1, 0)}
	if err := w.Add(e, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	id, mediaType, ix, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	d.MediaType = mediaType
	l := layer.Layer{DiffID: id, Descriptor: d}
	if err := st.PutLayer(l, ix); err != nil {
		t.Fatal(err)
	}
	return l
}

// exported is a cache with two steps and a base, in a layout.
func exported(t *testing.T, mode string) (Location, Location, [2]Key, [2]layer.Layer, layer.Layer) {
	t.Helper()
	st := newStore(t)
	images := storeImages{st: st}
	imports := NewImports(New(st), nil, images)
	rec := NewRecorder(imports, RecorderOptions{Inputs: true})
	var keys [2]Key
	var layers [2]layer.Layer
	for i, name := range []string{"one", "two"} {
		keys[i] = NewKey("run", Input{"arg", name}).At(Place{Stage: "s", Number: i, Name: name})
		layers[i] = realLayer(t, st, name, strings.Repeat(name, 1000))
		if err := rec.Put(t.Context(), keys[i], Record{Layer: layers[i], Created: time.Unix(int64(i), 0)}); err != nil {
			t.Fatal(err)
		}
	}
	base := realLayer(t, st, "base", "base")
	dir := t.TempDir()
	to, err := ParseExport("type=local,mode=" + mode + ",dest=" + dir)
	if err != nil {
		t.Fatal(err)
	}
	from, err := ParseImport("type=local,src=" + dir)
	if err != nil {
		t.Fatal(err)
	}
	out, err := Export(t.Context(), to, Content{Steps: rec, Image: []layer.Layer{base, layers[0]}, Bases: []layer.Layer{base}},
		ExportOptions{Store: st, Imports: imports})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Export(t.Context(), to, Content{Steps: rec, Image: []layer.Layer{base, layers[0]}, Bases: []layer.Layer{base}},
		ExportOptions{Store: st, Imports: imports})
	if err != nil || again.Descriptor.Digest != out.Descriptor.Digest {
		t.Fatalf("exported again it is %v, %v", again, err)
	}
	return to, from, keys, layers, base
}

func open(t *testing.T, from Location, st *store.Store) []func() *Import {
	t.Helper()
	im, err := OpenImport(t.Context(), from, ImportOptions{Store: st})
	if err != nil {
		t.Fatal(err)
	}
	return []func() *Import{func() *Import { return nil }, func() *Import { return im }}
}

func TestImport(t *testing.T) {
	_, from, keys, layers, base := exported(t, ModeMax)
	st := newStore(t)
	im := NewImports(New(st), open(t, from, st), noImages{})
	for i, k := range keys {
		rec, hit, err := im.Get(t.Context(), k)
		if err != nil || !hit || rec.Layer.DiffID != layers[i].DiffID || rec.Layer.Descriptor.Digest != layers[i].Descriptor.Digest ||
			rec.Layer.Origin != from.Name() || rec.Created.Unix() != int64(i) || len(rec.Via) != 1 {
			t.Errorf("%+v, %v, %v", rec, hit, err)
		}
	}
	if _, hit, err := im.Get(t.Context(), NewKey("run", Input{"arg", "three"})); hit || err != nil {
		t.Errorf("a key that nobody has: %v, %v", hit, err)
	}
	for _, l := range append(layers[:], base) {
		if ix, err := im.Index(t.Context(), l); err != nil || ix.Len() != 1 {
			t.Errorf("index of %s: %v", l.DiffID, err)
		}
	}
	// Nothing of it has become a record of this store, or an index.
	if _, hit, _ := New(st).Get(t.Context(), keys[0]); hit {
		t.Error("an imported record became a local one")
	}
	if _, err := st.LayerIndex(layers[0].DiffID); err == nil {
		t.Error("an imported index became a local one")
	}
	reason := im.Explain(t.Context(), NewKey("run", Input{"arg", "other"}).At(keys[0].Place()))
	if reason.String() != "the command changed" {
		t.Error(reason)
	}

	// A layer that cannot be had makes the build try again without the import.
	_, err := im.Blob(t.Context(), layers[0])
	if who, again := im.Refuse(err); !again || who != from.Name() {
		t.Errorf("%q, %v", who, again)
	}
	if _, hit, _ := im.Get(t.Context(), keys[1]); hit {
		t.Error("a refused import was asked again")
	}
	if _, again := im.Refuse(err); again {
		t.Error("the same failure twice is a reason to try again")
	}
	if _, again := im.Refuse(errors.New("other")); again {
		t.Error("any failure is a reason to try again")
	}
}

func TestModeMinLeavesOut(t *testing.T) {
	_, from, keys, _, _ := exported(t, ModeMin)
	st := newStore(t)
	im := NewImports(New(st), open(t, from, st), noImages{})
	for i, want := range []bool{true, false} {
		if _, hit, err := im.Get(t.Context(), keys[i]); hit != want || err != nil {
			t.Errorf("step %d: %v, %v", i, hit, err)
		}
	}
}

// What is put while an index of an import was used and not proved is for builds that trust the import, and for all once it is proved.
func TestVia(t *testing.T) {
	_, from, keys, layers, _ := exported(t, ModeMax)
	st := newStore(t)
	im := NewImports(New(st), open(t, from, st), noImages{})
	if _, _, err := im.Get(t.Context(), keys[0]); err != nil {
		t.Fatal(err)
	}
	made := realLayer(t, st, "made", "made")
	before, after, proved := NewKey("copy", Input{"a", "before"}), NewKey("copy", Input{"a", "after"}), NewKey("copy", Input{"a", "proved"})
	put := func(k Key) {
		t.Helper()
		if err := im.Put(t.Context(), k, Record{Layer: made}); err != nil {
			t.Fatal(err)
		}
	}
	put(before)
	if _, err := im.Index(t.Context(), layers[0]); err != nil {
		t.Fatal(err)
	}
	put(after)
	plain, trusting := New(st), New(st).For(Build{Trusted: []string{from.Name()}})
	hits := func(c *Cache, k Key) bool {
		_, hit, err := c.Get(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		return hit
	}
	if !hits(plain, before) || hits(plain, after) || !hits(trusting, after) {
		t.Errorf("before %v, after %v, trusting %v", hits(plain, before), hits(plain, after), hits(trusting, after))
	}
	realLayer(t, st, "one", strings.Repeat("one", 1000)) // somebody reads the layer
	put(proved)
	if !hits(plain, proved) {
		t.Error("still not trusted")
	}
}

// The blob of a layer on an import's word is read to its end only if it is the layer.
func TestProve(t *testing.T) {
	_, from, keys, layers, _ := exported(t, ModeMax)
	for name, lie := range map[string]func(*Import){
		"the truth": func(*Import) {},
		"another DiffID": func(i *Import) {
			rec := i.records[keys[0].Digest()]
			rec.Layer.DiffID = digest.FromString("x")
			i.records[keys[0].Digest()] = rec
		},
		"another layer": func(i *Import) {
			rec := i.records[keys[0].Digest()]
			rec.Layer.Descriptor = layers[1].Descriptor
			i.records[keys[0].Digest()] = rec
		},
	} {
		st := newStore(t)
		source := newStore(t)
		realLayer(t, source, "one", strings.Repeat("one", 1000))
		realLayer(t, source, "two", strings.Repeat("two", 1000))
		froms := open(t, from, st)
		lie(froms[1]())
		im := NewImports(New(st), froms, storeImages{st: source})
		rec, hit, err := im.Get(t.Context(), keys[0])
		if !hit || err != nil {
			t.Fatal(hit, err)
		}
		err = im.Prove(t.Context(), []layer.Layer{rec.Layer, rec.Layer})
		if (err == nil) != (name == "the truth") {
			t.Errorf("%s: %v", name, err)
		}
		if _, again := im.Refuse(err); again != (name != "the truth") {
			t.Errorf("%s: again %v", name, again)
		}
		// Somebody who stops reading early gets no verdict, and nothing hangs.
		rc, err := im.Blob(t.Context(), rec.Layer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(rc, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		rc.Close()
	}
}

// A local record whose layer is only in a registry, and is gone from there, is a step to be carried out.
func TestLayerGoneFromRegistry(t *testing.T) {
	st := newStore(t)
	l := realLayer(t, newStore(t), "one", "one")
	l.Origin = "registry.example/app"
	k := NewKey("run")
	if err := New(st).Put(t.Context(), k, Record{Layer: l}); err != nil {
		t.Fatal(err)
	}
	im := NewImports(New(st), nil, noImages{})
	rec, hit, err := im.Get(t.Context(), k)
	if !hit || err != nil {
		t.Fatal(hit, err)
	}
	_, err = im.Blob(t.Context(), rec.Layer)
	if from, again := im.Refuse(err); from != "" || !again {
		t.Errorf("%q, %v", from, again)
	}
	if _, hit, err := im.Get(t.Context(), k); hit || err != nil {
		t.Errorf("still %v, %v", hit, err)
	}
	made := realLayer(t, st, "one", "one")
	if err := im.Put(t.Context(), k, Record{Layer: made}); err != nil {
		t.Fatal(err)
	}
	if _, hit, err := im.Get(t.Context(), k); !hit || err != nil {
		t.Errorf("made again: %v, %v", hit, err)
	}
}

func TestMissExpected(t *testing.T) {
	st := newStore(t)
	rec := NewRecorder(NewImports(New(st), nil, noImages{}), RecorderOptions{Expect: func(s string) bool { return s == "build" }})
	if _, hit, err := rec.Get(t.Context(), NewKey("run").At(Place{Stage: "test", Name: "x"})); hit || err != nil {
		t.Errorf("%v, %v", hit, err)
	}
	_, _, err := rec.Get(t.Context(), NewKey("run").At(Place{Stage: "build", Name: "[build 1/1] RUN x"}))
	var miss *MissError
	if !errors.As(err, &miss) || !strings.Contains(err.Error(), "[build 1/1] RUN x") {
		t.Error(err)
	}
}

func TestLayoutStaysInside(t *testing.T) {
	_, from, _, _, _ := exported(t, ModeMax)
	d, err := openDepot(from, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []digest.Digest{"sha256:../../index.json", "", "sha512:" + digest.Digest(strings.Repeat("a", 128))} {
		if _, err := d.manifest(t.Context(), bad); err == nil {
			t.Errorf("read %q", bad)
		}
	}
	if _, err := OpenImport(t.Context(), Location{Type: TypeLocal, Dir: filepath.Join(from.Dir, "blobs"), Tag: "latest"}, ImportOptions{}); err == nil {
		t.Error("opened what is no layout")
	}
	if !bytes.HasPrefix([]byte(d.origin()), []byte("oci-layout:///")) {
		t.Error(d.origin())
	}
}
