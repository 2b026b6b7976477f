// Package cache remembers which layer a step made: from a key, which is everything the step depends on, to a record in the store.
//
// A record is only as good as the layer it names: Get answers with it when the layer's blob is held or is known to be in a registry.
// Whatever cannot be read is a miss. Records keep the digests of their key's inputs, so that a miss can be explained.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
)

// The buckets of the store.
const (
	stepsBucket     = "steps"
	positionsBucket = "positions"
	filesBucket     = "files"
)

// Record is what a step made.
type Record struct {
	Layer layer.Layer
	// Created is when the step was carried out, for the history of the image.
	Created time.Time
	// Warnings are what was said of the step when it was carried out. Records that were imported have none.
	Warnings []string
	// Via names the imports that the step rests on although nothing proves yet that they told the truth (see Imports).
	Via []string
}

// Cache is the local cache of steps. It is safe for concurrent use, also by several processes.
type Cache struct {
	store *store.Store
	build Build
	// former is what was remembered of places before this build came to them.
	former *former
}

// Build is what a build tells the cache about itself.
type Build struct {
	// Project keeps the explanations of one Dockerfile apart from those of others: the path or URL of the context and the Dockerfile.
	Project string
	// Trusted are the names of imports (Import.Name) whose word this build takes; records that rest on others are misses.
	Trusted []string
}

// New returns the cache that is kept in a store.
func New(st *store.Store) *Cache { return &Cache{store: st, former: newFormer()} }

// For returns the cache as one build sees it.
func (c *Cache) For(b Build) *Cache { return &Cache{store: c.store, build: b, former: newFormer()} }

// stepDocument is the stored form of a Record.
type stepDocument struct {
	Key      digest.Digest `json:"key"`
	Kind     string        `json:"kind"`
	Layer    layer.Layer   `json:"layer"`
	Created  time.Time     `json:"created"`
	Warnings []string      `json:"warnings,omitempty"`
	Via      []string      `json:"via,omitempty"`
}

// Get returns the record of a key. Damaged records, and records whose layer is nowhere to be had any more, are misses.
func (c *Cache) Get(ctx context.Context, k Key) (Record, bool, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, false, err
	}
	data, err := c.store.Record(stepsBucket, k.digest.String())
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, fmt.Errorf("looking up step %s: %w", k.digest, err)
	}
	var doc stepDocument
	if json.Unmarshal(data, &doc) != nil || doc.Key != k.digest || !valid(doc.Layer) {
		return Record{}, false, nil
	}
	for _, via := range doc.Via {
		if !slices.Contains(c.build.Trusted, via) {
			return Record{}, false, nil
		}
	}
	l, ok := c.available(doc.Layer)
	if ok {
		c.store.TouchRecord(stepsBucket, k.digest.String())
	}
	return Record{Layer: l, Created: doc.Created, Warnings: doc.Warnings, Via: doc.Via}, ok, nil
}

// valid reports whether a layer value can be worked with.
func valid(l layer.Layer) bool {
	return l.DiffID.Validate() == nil && l.Descriptor.Digest.Validate() == nil && l.Descriptor.Size >= 0 && l.Descriptor.MediaType != ""
}

// available returns the layer in a form that can be had: as it was recorded if that is held, else as the store knows it now, else from
// where the record says it was.
func (c *Cache) available(l layer.Layer) (layer.Layer, bool) {
	if c.held(l) {
		return l, true
	}
	if known, err := c.store.Layer(l.DiffID); err == nil && valid(known) && (c.held(known) || known.Origin != "") {
		return known, true
	}
	return l, l.Origin != ""
}

// held reports whether the blob is there and as long as it should be.
func (c *Cache) held(l layer.Layer) bool {
	size, ok := c.store.HasBlob(l.Descriptor.Digest)
	return ok && size == l.Descriptor.Size
}

// Put keeps the record of a key, replacing an older one. A layer that is neither held nor in a registry is an error: a record never
// names what does not exist.
func (c *Cache) Put(ctx context.Context, k Key, r Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, ok := c.available(r.Layer); !ok || !valid(r.Layer) {
		return fmt.Errorf("recording step %s: layer %s is neither held nor in a registry", k.digest, r.Layer.DiffID)
	}
	data, err := json.Marshal(stepDocument{
		Key: k.digest, Kind: k.kind, Layer: r.Layer, Created: r.Created.UTC(), Warnings: r.Warnings, Via: r.Via,
	})
	if err != nil {
		return fmt.Errorf("recording step %s: %w", k.digest, err)
	}
	if err := c.store.PutCacheRecord(stepsBucket, k.digest.String(), data); err != nil {
		return fmt.Errorf("recording step %s: %w", k.digest, err)
	}
	return c.remember(k)
}
