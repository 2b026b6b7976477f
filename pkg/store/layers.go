package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"weak"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// layerPath is where the Layer value of a DiffID lies; its index is beside it.
func (s *Store) layerPath(diffID digest.Digest) (string, error) {
	if err := diffID.Validate(); err != nil {
		return "", fmt.Errorf("DiffID %q: %w", diffID, err)
	}
	if diffID.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("DiffID %q: algorithm %s is not supported", diffID, diffID.Algorithm())
	}
	return s.path(layersDir, diffID.Encoded()), nil
}

const indexSuffix = ".index"

// PutLayer remembers a layer and its index under the layer's DiffID. A later call for the same DiffID may add an Origin or an Index; ix may
// be nil. Of two compressed forms of one layer, the one whose blob is held is remembered, of two such the later.
func (s *Store) PutLayer(l layer.Layer, ix *layer.Index) error {
	path, err := s.layerPath(l.DiffID)
	if err != nil {
		return err
	}
	if ix != nil {
		if err := s.PutIndex(l.DiffID, ix); err != nil {
			return err
		}
	}
	// One writer must see what the other has added. Between processes that is left to chance: at worst an Origin is learnt again.
	unlock, err := s.locks.lock(context.Background(), "layer "+l.DiffID.String())
	if err != nil {
		return err
	}
	defer unlock()
	old, err := s.Layer(l.DiffID)
	if err == nil {
		l = s.mergeLayer(old, l)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encoding layer %s: %w", l.DiffID, err)
	}
	return s.putSealed(path, data, rebuildable)
}

// PutIndex remembers the index of a layer whose blob is still being written. PutLayer makes the layer known.
func (s *Store) PutIndex(diffID digest.Digest, ix *layer.Index) error {
	path, err := s.layerPath(diffID)
	if err != nil {
		return err
	}
	err = s.writeSealed(path+indexSuffix, rebuildable, func(w io.Writer) error {
		_, err := ix.WriteTo(w)
		return err
	})
	if err != nil {
		return err
	}
	if fi, err := os.Lstat(path + indexSuffix); err == nil {
		s.indexes.put(diffID, ix, fi)
	}
	return nil
}

// mergeLayer chooses what to remember of a layer seen twice.
func (s *Store) mergeLayer(old, l layer.Layer) layer.Layer {
	if old.Descriptor.Digest == l.Descriptor.Digest || l.Descriptor.Digest == "" {
		if l.Descriptor.Digest == "" {
			l.Descriptor = old.Descriptor
		}
		if l.Origin == "" {
			l.Origin = old.Origin
		}
		return l
	}
	_, oldHeld := s.HasBlob(old.Descriptor.Digest)
	_, held := s.HasBlob(l.Descriptor.Digest)
	if oldHeld && !held {
		return old
	}
	return l
}

// Layer returns what is known of the layer with a DiffID; fs.ErrNotExist if nothing is.
func (s *Store) Layer(diffID digest.Digest) (layer.Layer, error) {
	path, err := s.layerPath(diffID)
	if err != nil {
		return layer.Layer{}, err
	}
	data, err := readSealed(path)
	if err != nil {
		return layer.Layer{}, fmt.Errorf("layer %s: %w", diffID, err)
	}
	var l layer.Layer
	if json.Unmarshal(data, &l) != nil || l.DiffID != diffID {
		return layer.Layer{}, fmt.Errorf("layer %s: %w", diffID, damagedError{path})
	}
	return l, nil
}

// LayerIndex returns the index of the layer with a DiffID; fs.ErrNotExist if it is not known. As long as somebody uses it, and it stays as it is on disk,
// all get the same one: a large index holds a file open.
func (s *Store) LayerIndex(diffID digest.Digest) (*layer.Index, error) {
	path, err := s.layerPath(diffID)
	if err != nil {
		return nil, err
	}
	if ix := s.indexes.get(diffID, path+indexSuffix); ix != nil {
		return ix, nil
	}
	doc, err := openSealed(path + indexSuffix)
	if err != nil {
		return nil, fmt.Errorf("index of layer %s: %w", diffID, err)
	}
	// The index reads from the document as long as it is used.
	ix, err := layer.ReadIndex(doc, doc.Size())
	if err != nil {
		// An index in the words of another version is as good as none.
		_ = doc.Close()
		return nil, fmt.Errorf("index of layer %s: %w (%w)", diffID, damagedError{path + indexSuffix}, err)
	}
	s.indexes.put(diffID, ix, doc.info)
	return ix, nil
}

// sharedIndexes are the indexes that somebody uses.
type sharedIndexes struct {
	mu  sync.Mutex
	all map[digest.Digest]sharedIndex
}

type sharedIndex struct {
	index weak.Pointer[layer.Index]
	file  fs.FileInfo
}

// get returns the index that was read from a file, or written to it, if that is as it was then.
func (c *sharedIndexes) get(diffID digest.Digest, path string) *layer.Index {
	c.mu.Lock()
	defer c.mu.Unlock()
	shared, ok := c.all[diffID]
	if !ok {
		return nil
	}
	ix := shared.index.Value()
	fi, err := os.Lstat(path)
	same := err == nil && os.SameFile(fi, shared.file) && fi.Size() == shared.file.Size() && fi.ModTime().Equal(shared.file.ModTime())
	if ix == nil || ix.Err() != nil || !same {
		delete(c.all, diffID)
		return nil
	}
	return ix
}

func (c *sharedIndexes) put(diffID digest.Digest, ix *layer.Index, file fs.FileInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[digest.Digest]sharedIndex{}
	}
	c.all[diffID] = sharedIndex{weak.Make(ix), file}
}
