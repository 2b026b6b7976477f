package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// InlineField is the field of an image's config that the records of type=inline are in. Who does not know it passes over it, and an image that
// is built on this one does not inherit it.
const InlineField = "cairn.cache.v1"

// maxNested is how many images of an index are looked at.
const maxNested = 32

// inlineDocument is the value of InlineField.
type inlineDocument struct {
	Records []inlineRecord `json:"records"`
}

// inlineRecord says that the step with a key made a layer of the image, by its number. When it was made is in the history.
type inlineRecord struct {
	Key   digest.Digest `json:"key"`
	Layer int           `json:"layer"`
}

// Inline returns the value of InlineField for an image with these layers, bottom first: the records of used whose layers it consists of. It is
// nil if there is none. A layer whose times were rewritten is no longer what its step made and has no record.
func Inline(used []Used, layers []layer.Layer) (json.RawMessage, error) {
	keys := map[digest.Digest][]digest.Digest{}
	for _, u := range used {
		if u.Done {
			keys[u.Record.Layer.DiffID] = append(keys[u.Record.Layer.DiffID], u.Key.Digest())
		}
	}
	var doc inlineDocument
	seen := map[digest.Digest]bool{}
	for i, l := range layers {
		for _, k := range sorted(keys[l.DiffID]) {
			if !seen[k] {
				seen[k] = true
				doc.Records = append(doc.Records, inlineRecord{Key: k, Layer: i})
			}
		}
	}
	if len(doc.Records) == 0 {
		return nil, nil
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing inline cache: %w", err)
	}
	return data, nil
}

// readIndex takes over the inline caches of the images of an index.
func (im *Import) readIndex(ctx context.Context, body []byte) error {
	var ix ocispec.Index
	if err := json.Unmarshal(body, &ix); err != nil {
		return err
	}
	found := false
	for i, d := range ix.Manifests {
		if i == maxNested {
			break
		}
		if !registry.IsManifest(d.MediaType) || d.Platform != nil && d.Platform.OS == "unknown" {
			continue // an attestation is no image
		}
		if err := checkDigest(d.Digest); err != nil {
			return err
		}
		body, err := im.depot.manifest(ctx, d.Digest)
		if err != nil {
			return err
		}
		im.size.Add(int64(len(body)))
		err = im.read(ctx, d.MediaType, body)
		if err != nil && !errors.Is(err, ErrNoRecords) {
			return err
		}
		found = found || err == nil
	}
	if !found {
		return ErrNoRecords
	}
	return nil
}

// inlineConfig is what is read of an image's config.
type inlineConfig struct {
	RootFS  ocispec.RootFS    `json:"rootfs"`
	History []ocispec.History `json:"history"`
	Cache   *inlineDocument   `json:"cairn.cache.v1"`
}

// readInline takes over the records in the config of an image.
func (im *Import) readInline(ctx context.Context, m ocispec.Manifest) error {
	switch m.Config.MediaType {
	case "application/vnd.buildkit.cacheconfig.v0":
		return fmt.Errorf("it was made by BuildKit, whose keys mean nothing here: %w", ErrNoRecords)
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
	default:
		return ErrNoRecords
	}
	data, err := im.small(ctx, m.Config, registry.MaxConfig)
	if err != nil {
		return err
	}
	var c inlineConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("reading config %s: %w", m.Config.Digest, err)
	}
	if c.Cache == nil {
		return ErrNoRecords
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) || len(c.Cache.Records) > maxRecords {
		return fmt.Errorf("reading config %s: it does not fit its manifest", m.Config.Digest)
	}
	times := layerTimes(c.History)
	for _, r := range c.Cache.Records {
		if checkDigest(r.Key) != nil || r.Layer < 0 || r.Layer >= len(m.Layers) || r.Layer >= len(times) {
			return fmt.Errorf("reading config %s: its inline cache has a record of no layer", m.Config.Digest)
		}
		l := layer.Layer{DiffID: c.RootFS.DiffIDs[r.Layer], Descriptor: plain(m.Layers[r.Layer]), Origin: im.depot.origin()}
		if !valid(l) || checkDigest(l.DiffID) != nil {
			return fmt.Errorf("reading config %s: layer %d has no valid digests", m.Config.Digest, r.Layer)
		}
		im.records[r.Key] = Record{Layer: l, Created: times[r.Layer]}
	}
	return nil
}

// layerTimes returns when each layer was made.
func layerTimes(history []ocispec.History) (out []time.Time) {
	for _, h := range history {
		if h.EmptyLayer {
			continue
		}
		var t time.Time
		if h.Created != nil {
			t = *h.Created
		}
		out = append(out, t)
	}
	return out
}
