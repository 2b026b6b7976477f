package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func newStore(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// A key is written as kind|name=value|…||content. Every key of the list is another one, though all are made by moving bytes between
// neighbouring fields, splitting fields, or moving inputs between the parts.
func TestKeysDoNotCollide(t *testing.T) {
	in := func(pairs ...string) (out []Input) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, Input{pairs[i], pairs[i+1]})
		}
		return out
	}
	keys := map[string]Key{
		"empty":            NewKey(""),
		"kind":             NewKey("a"),
		"kind 2":           NewKey("ab"),
		"one":              NewKey("a", in("b", "")...),
		"one 2":            NewKey("a", in("", "b")...),
		"one 3":            NewKey("", in("a", "b")...),
		"one 4":            NewKey("ab", in("", "")...),
		"pair":             NewKey("k", in("n", "xy")...),
		"pair 2":           NewKey("k", in("nx", "y")...),
		"pair 3":           NewKey("kn", in("x", "y")...),
		"two":              NewKey("k", in("n", "x", "n", "y")...),
		"two, other order": NewKey("k", in("n", "y", "n", "x")...),
		"two, joined":      NewKey("k", in("n", "xny")...),
		"nul":              NewKey("k", in("n", "x\x00n\x00y")...),
		"content":          NewKey("k", in("n", "x")...).WithContent(in("n", "y")...),
		"content 2":        NewKey("k").WithContent(in("n", "x", "n", "y")...),
		"content 3":        NewKey("k", in("n", "x", "n", "y", "", "")...),
		"length as bytes":  NewKey("k", in("n", "\x00\x00\x00\x00\x00\x00\x00\x01x")...),
	}
	seen := map[digest.Digest]string{}
	for name, k := range keys {
		if other, ok := seen[k.Digest()]; ok {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[k.Digest()] = name
	}
}

// Random keys: equal inputs give the equal key, one changed byte, one input more, less or swapped another.
func TestKeyMetamorphic(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		b := make([]byte, rng.IntN(6))
		for i := range b {
			b[i] = "ab\x00\x01="[rng.IntN(5)]
		}
		return string(b)
	}
	build := func(kind string, in []Input, split int) digest.Digest {
		return NewKey(kind, in[:split]...).WithContent(in[split:]...).Digest()
	}
	for range 5000 {
		kind := text()
		in := make([]Input, 1+rng.IntN(6))
		for i := range in {
			in[i] = Input{text(), text()}
		}
		split := rng.IntN(len(in) + 1)
		want := build(kind, in, split)
		if build(strings.Clone(kind), slices.Clone(in), split) != want {
			t.Fatal("equal inputs gave two keys")
		}
		changed := slices.Clone(in)
		i := rng.IntN(len(in))
		what := rng.IntN(7)
		switch what {
		case 0:
			changed[i].Value += "x"
		case 1:
			changed[i].Name += "x"
		case 2:
			changed[i] = Input{changed[i].Name + "x", changed[i].Value}
		case 3:
			changed = append(changed, Input{})
		case 4:
			changed = slices.Delete(changed, i, i+1)
		case 5:
			j := rng.IntN(len(in))
			changed[i], changed[j] = changed[j], changed[i]
		case 6:
			// One byte moves from the value to its name.
			if changed[i].Value != "" {
				changed[i] = Input{changed[i].Name + changed[i].Value[:1], changed[i].Value[1:]}
			}
		}
		if slices.Equal(changed, in) {
			continue
		}
		if build(kind, changed, min(split, len(changed))) == want {
			t.Fatalf("change %d of %q, %q at %d did not change the key", what, kind, in, split)
		}
		if build(kind+"x", in, split) == want {
			t.Fatal("the kind did not change the key")
		}
	}
}

// The key format is a contract with every cache that exists. Whoever changes it on purpose also changes keyVersion.
func TestKeyGolden(t *testing.T) {
	k := NewKey("run", Input{"arg", "make"}, Input{"env", "A=1"}).WithContent(Input{"file", "x"}).At(Place{Stage: "anywhere"})
	const want = "sha256:5671735398a03012a676a17decc3ebb4bc381b06e2f7f80d393153e0434f85d7"
	if k.Digest() != want {
		t.Errorf("digest %s", k.Digest())
	}
}

func TestKeyIsAValue(t *testing.T) {
	in := []Input{{"a", "1"}, {"b", "2"}}
	k := NewKey("k", in...)
	before := k.Digest()
	in[0].Value = "changed"
	a := k.WithContent(Input{"c", "3"})
	b := k.WithContent(Input{"c", "4"})
	if k.Digest() != before || a.Digest() == b.Digest() || k.Inputs()[0].Value != "1" {
		t.Error("a key changed after it was made")
	}
	if len(a.Inputs()) != 3 || a.Inputs()[2].Value != "3" || a.Kind() != "k" {
		t.Errorf("inputs %v", a.Inputs())
	}
}

func putLayer(t *testing.T, st *store.Store, content string) layer.Layer {
	t.Helper()
	d, err := st.PutBlob(t.Context(), ocispec.MediaTypeImageLayerGzip, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return layer.Layer{DiffID: digest.FromString(content + " tar"), Descriptor: d}
}

func blobPath(st *store.Store, d digest.Digest) string {
	return filepath.Join(st.Root(), "blobs", "sha256", d.Encoded())
}

func TestGetAndPut(t *testing.T) {
	st := newStore(t)
	c := New(st)
	key := NewKey("run", Input{"arg", "make"})
	if _, hit, err := c.Get(t.Context(), key); hit || err != nil {
		t.Fatalf("empty cache: %v, %v", hit, err)
	}
	l := putLayer(t, st, "layer")
	created := time.Date(2024, 1, 2, 3, 4, 5, 6, time.FixedZone("x", 3600))
	if err := c.Put(t.Context(), key, Record{Layer: l, Created: created}); err != nil {
		t.Fatal(err)
	}
	rec, hit, err := c.Get(t.Context(), key)
	if err != nil || !hit || rec.Layer.DiffID != l.DiffID || rec.Layer.Descriptor.Digest != l.Descriptor.Digest || !rec.Created.Equal(created) {
		t.Fatalf("%+v, %v, %v", rec, hit, err)
	}
	if _, hit, _ := c.Get(t.Context(), NewKey("run", Input{"arg", "mak"})); hit {
		t.Error("another key hit")
	}
	if p := st.Check(t.Context(), true); len(p) > 0 {
		t.Error(p)
	}
	// What the cache needs survives a prune; what nobody needs does not.
	putLayer(t, st, "other")
	if _, err := st.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, hit, err := c.Get(t.Context(), key); !hit || err != nil {
		t.Errorf("after prune: %v, %v", hit, err)
	}
}

func TestGetNeedsTheLayer(t *testing.T) {
	remote := layer.Layer{
		DiffID:     digest.FromString("remote tar"),
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("remote"), Size: 6},
	}
	withOrigin := remote
	withOrigin.Origin = "registry.example/app"
	st := newStore(t)
	c := New(st)
	key := NewKey("k")
	if err := c.Put(t.Context(), key, Record{Layer: remote}); err == nil {
		t.Error("recorded a layer that is nowhere")
	}
	if err := c.Put(t.Context(), key, Record{Layer: withOrigin}); err != nil {
		t.Fatal(err)
	}
	if rec, hit, err := c.Get(t.Context(), key); !hit || err != nil || rec.Layer.Origin != withOrigin.Origin {
		t.Errorf("a layer with an origin: %+v, %v, %v", rec, hit, err)
	}

	l := putLayer(t, st, "local")
	if err := c.Put(t.Context(), key, Record{Layer: l}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(blobPath(st, l.Descriptor.Digest)); err != nil {
		t.Fatal(err)
	}
	if _, hit, err := c.Get(t.Context(), key); hit || err != nil {
		t.Errorf("the blob is gone: %v, %v", hit, err)
	}
	// A blob cut short is as bad as none.
	if err := os.WriteFile(blobPath(st, l.Descriptor.Digest), []byte("loc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, hit, err := c.Get(t.Context(), key); hit || err != nil {
		t.Errorf("the blob is cut: %v, %v", hit, err)
	}
	// The same layer in another compressed form will do, and so will one that has been pushed meanwhile.
	other := l
	other.Descriptor, other.Origin = withOrigin.Descriptor, withOrigin.Origin
	if err := st.PutLayer(other, nil); err != nil {
		t.Fatal(err)
	}
	if rec, hit, err := c.Get(t.Context(), key); !hit || err != nil || rec.Layer.Descriptor.Digest != other.Descriptor.Digest {
		t.Errorf("another form: %+v, %v, %v", rec, hit, err)
	}
}

func TestDamagedRecordsAreMisses(t *testing.T) {
	st := newStore(t)
	c := New(st)
	key := NewKey("k")
	l := putLayer(t, st, "layer")
	if err := c.Put(t.Context(), key, Record{Layer: l}); err != nil {
		t.Fatal(err)
	}
	good, err := st.Record(stepsBucket, key.Digest().String())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := NewKey("elsewhere")
	for name, data := range map[string]string{
		"empty":          "",
		"no JSON":        "{",
		"another key":    strings.ReplaceAll(string(good), key.Digest().String(), elsewhere.Digest().String()),
		"no digest":      strings.ReplaceAll(string(good), l.DiffID.String(), "sha256:../../x"),
		"negative size":  strings.ReplaceAll(string(good), fmt.Sprintf(`"size":%d`, l.Descriptor.Size), `"size":-1`),
		"no media type":  strings.ReplaceAll(string(good), l.Descriptor.MediaType, ""),
		"wrong type":     `[]`,
		"nothing inside": `{"key":"` + key.Digest().String() + `"}`,
	} {
		if data == string(good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if err := st.PutRecord(stepsBucket, key.Digest().String(), []byte(data)); err != nil {
			t.Fatal(err)
		}
		if _, hit, err := c.Get(t.Context(), key); hit || err != nil {
			t.Errorf("%s: %v, %v", name, hit, err)
		}
	}
	// Bits flipped on the disk.
	if err := st.PutRecord(stepsBucket, key.Digest().String(), good); err != nil {
		t.Fatal(err)
	}
	var file string
	_ = filepath.WalkDir(filepath.Join(st.Root(), "records", stepsBucket), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			file = path
		}
		return err
	})
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] ^= 1
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, hit, err := c.Get(t.Context(), key); hit || err != nil {
			t.Fatalf("byte %d: %v, %v", i, hit, err)
		}
		raw[i] ^= 1
	}
	// A step done again repairs it.
	if err := c.Put(t.Context(), key, Record{Layer: l}); err != nil {
		t.Fatal(err)
	}
	if _, hit, err := c.Get(t.Context(), key); !hit || err != nil {
		t.Errorf("after repair: %v, %v", hit, err)
	}
}

func TestCanceled(t *testing.T) {
	c := New(newStore(t))
	ctx, cancel := contextWithCancel(t)
	cancel()
	if _, _, err := c.Get(ctx, NewKey("k")); err == nil {
		t.Error("Get with an ended context")
	}
	if err := c.Put(ctx, NewKey("k"), Record{}); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Put with an ended context: %v", err)
	}
}
