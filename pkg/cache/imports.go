package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// Images is what gives indexes and bytes of layers. It is implemented by source.Images, and by Imports around it.
type Images interface {
	Index(ctx context.Context, l layer.Layer) (*layer.Index, error)
	Blob(ctx context.Context, l layer.Layer) (io.ReadCloser, error)
}

// Imports is a Steps that asks the local cache first and then, in order, imports. It is also an Images, because what an import says of a
// layer is not proved before the layer has been read.
//
// What is believed, and how long: an import is asked only because the user named its repository or directory, and whoever can write there
// decides what a step's result is, as with every shared cache. So a record of an import is used by this build and never becomes a
// local one. The bytes of a layer must have the digest and size of its descriptor and, whenever they are fetched, the DiffID that
// the record says. The index of a layer is derived data that an import brings so that COPY need not fetch the layer; it is used in memory
// only, and what a build makes while it rests on one that nothing has proved is recorded with the import's name (Record.Via): builds
// that do not name the import do not see it. An import that is found to be wrong in one thing is not asked again (Refuse).
type Imports struct {
	local  *Cache
	from   []func() *Import
	images Images

	mu sync.Mutex
	// refused are the names of imports that were found wrong, bad the DiffIDs of layers that could not be had.
	refused map[string]bool
	bad     map[digest.Digest]bool
	// claims are the layers that records named and that nobody has read yet, by DiffID; indexes those that were taken from an import.
	claims  map[digest.Digest]*claim
	indexes map[digest.Digest]*claimedIndex
}

// claim is a layer on somebody's word: an import's, or ("") that of a local record whose blob is only in a registry.
type claim struct {
	layer  layer.Layer
	from   string
	proved bool
}

// claimedIndex is an index on an import's word.
type claimedIndex struct {
	from string
	ix   *layer.Index
}

// NewImports returns the imports of a build around its local cache. Each of from is called when it is first needed and may be called
// again; it returns nil where there is nothing.
func NewImports(local *Cache, from []func() *Import, images Images) *Imports {
	return &Imports{
		local: local, from: from, images: images, refused: map[string]bool{}, bad: map[digest.Digest]bool{},
		claims: map[digest.Digest]*claim{}, indexes: map[digest.Digest]*claimedIndex{},
	}
}

// each calls f with the imports that may be asked until it returns true.
func (im *Imports) each(f func(*Import) bool) {
	for _, open := range im.from {
		i := open()
		if i == nil {
			continue
		}
		im.mu.Lock()
		refused := im.refused[i.Name()]
		im.mu.Unlock()
		if !refused && f(i) {
			return
		}
	}
}

// Get implements Steps.
func (im *Imports) Get(ctx context.Context, k Key) (Record, bool, error) {
	rec, hit, err := im.local.Get(ctx, k)
	if err != nil {
		return rec, hit, err
	}
	if hit && !im.refusedAny(rec.Via) && im.accept(rec.Layer, "") {
		return rec, true, nil
	}
	rec, hit = Record{}, false
	im.each(func(i *Import) bool {
		found, ok := i.records[k.Digest()]
		if !ok {
			return false
		}
		if known, err := im.local.store.Layer(found.Layer.DiffID); err == nil && im.local.proved(known) {
			found.Layer = known // in the form that is here already
		}
		if !im.accept(found.Layer, i.Name()) {
			return false
		}
		rec, hit = found, true
		rec.Via = []string{i.Name()}
		return true
	})
	return rec, hit, ctx.Err()
}

// refusedAny reports whether one of the named imports was found wrong.
func (im *Imports) refusedAny(names []string) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return slices.ContainsFunc(names, func(n string) bool { return im.refused[n] })
}

// proved reports whether the store has read this blob as the layer it is said to be.
func (c *Cache) proved(l layer.Layer) bool {
	known, err := c.store.Layer(l.DiffID)
	if err != nil || known.Descriptor.Digest != l.Descriptor.Digest || !c.held(known) {
		return false
	}
	_, err = c.store.LayerIndex(l.DiffID)
	return err == nil
}

// accept notes a layer that is only known by somebody's word; false if it is known to be bad.
func (im *Imports) accept(l layer.Layer, from string) bool {
	if from == "" && im.local.held(l) {
		return true
	}
	proved := im.local.proved(l)
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.bad[l.DiffID] && !proved {
		return false
	}
	if _, ok := im.claims[l.DiffID]; !ok {
		im.claims[l.DiffID] = &claim{layer: l, from: from, proved: proved}
	}
	return true
}

// Put implements Steps.
func (im *Imports) Put(ctx context.Context, k Key, r Record) error {
	via, err := im.restsOn()
	if err != nil {
		return err
	}
	r.Via = via
	return im.local.Put(ctx, k, r)
}

// restsOn returns the imports whose unproved indexes were used. Where the layer has been read meanwhile, its true index is compared.
func (im *Imports) restsOn() ([]string, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	var via []string
	for id, c := range im.indexes {
		ix, err := im.local.store.LayerIndex(id)
		if errors.Is(err, fs.ErrNotExist) {
			if !slices.Contains(via, c.from) {
				via = append(via, c.from)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if same, err := ix.Equal(c.ix); err != nil {
			return nil, err
		} else if !same {
			return nil, c.wrong(id)
		}
		delete(im.indexes, id)
	}
	slices.Sort(via)
	return via, nil
}

func (c *claimedIndex) wrong(diffID digest.Digest) error {
	err := fmt.Errorf("layer %s does not contain what %s says it does", diffID, c.from)
	return &layer.UnusableError{Layer: layer.Layer{DiffID: diffID}, Err: err}
}

// Index implements Images: from the store, from an import, or else by reading the layer.
func (im *Imports) Index(ctx context.Context, l layer.Layer) (*layer.Index, error) {
	if ix, err := im.local.store.LayerIndex(l.DiffID); err == nil {
		return ix, nil
	}
	im.mu.Lock()
	c := im.indexes[l.DiffID]
	im.mu.Unlock()
	if c != nil {
		return c.ix, nil
	}
	var found *claimedIndex
	im.each(func(i *Import) bool {
		// One that cannot be had is as good as none: the layer itself will tell.
		ix, ok, err := i.index(ctx, l.DiffID)
		if err == nil && ok {
			found = &claimedIndex{from: i.Name(), ix: ix}
		}
		return found != nil
	})
	if found == nil {
		return im.images.Index(ctx, l)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.indexes[l.DiffID] = found
	return found.ix, nil
}

// Blob implements Images. A layer on an import's word is checked for its DiffID while it is read: the last Read fails instead of
// returning io.EOF if it is not the one.
func (im *Imports) Blob(ctx context.Context, l layer.Layer) (io.ReadCloser, error) {
	im.mu.Lock()
	c := im.claims[l.DiffID]
	check := c != nil && !c.proved
	im.mu.Unlock()
	rc, err := im.images.Blob(ctx, l)
	if err != nil || !check || im.local.proved(l) {
		return rc, err
	}
	return im.prove(ctx, l, rc), nil
}

// Refuse looks whether a build failed because of something that it was told by an import, or by a local record of a layer that is only in a
// registry. If so, that is not believed any more: the build is worth trying again, which will carry the step out. from is the name of
// the import, or "" for the local cache. It returns false for failures of other kinds, and for those it has dealt with before.
func (im *Imports) Refuse(err error) (from string, again bool) {
	var u *layer.UnusableError
	if !errors.As(err, &u) {
		return "", false
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	id := u.Layer.DiffID
	if c := im.indexes[id]; c != nil {
		from, again = c.from, true
	} else if c := im.claims[id]; c != nil && !c.proved {
		from, again = c.from, true
	}
	if !again || im.bad[id] && (from == "" || im.refused[from]) {
		return from, false
	}
	im.bad[id] = true
	if from != "" {
		im.refused[from] = true
	}
	// The next attempt asks anew; what it is told then are other things.
	im.claims, im.indexes = map[digest.Digest]*claim{}, map[digest.Digest]*claimedIndex{}
	return from, true
}
