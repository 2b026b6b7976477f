package image

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Store keeps images by ID, with what is known of each. It is safe for concurrent use.
type Store interface {
	// Create keeps an image config and returns its ID. Its layers must be there; a history that names more layers than RootFS has
	// is an error. Creating what is there already changes nothing.
	Create(config []byte) (ID, error)
	// Get returns an image; an error that matches fs.ErrNotExist if it is not there.
	Get(id ID) (*Image, error)
	// Delete removes an image and returns the layers that are held by no image any more. Its children have no parent then.
	Delete(id ID) ([]LayerMetadata, error)
	// Search returns the one ID that begins with partialID, with or without "sha256:". None, and several, are errors.
	Search(partialID string) (ID, error)
	// SetParent notes which image another one was made from. Both must be there.
	SetParent(id, parent ID) error
	// GetParent returns what SetParent noted; an error that matches fs.ErrNotExist if nothing.
	GetParent(id ID) (ID, error)
	// SetLastUpdated notes that an image was tagged or pulled now; GetLastUpdated is the zero time where nothing was noted.
	SetLastUpdated(id ID) error
	GetLastUpdated(id ID) (time.Time, error)
	// SetBuiltLocally notes that an image was built here; IsBuiltLocally is false where nothing was noted.
	SetBuiltLocally(id ID) error
	IsBuiltLocally(id ID) (bool, error)
	// Children are the images whose parent an image is, sorted.
	Children(id ID) []ID
	// Map returns all images, Heads those without children. Images that cannot be read are left out.
	Map() map[ID]*Image
	Heads() map[ID]*Image
	// Len is the number of images.
	Len() int
}

// The keys of metadata, which are Docker's.
const (
	parentKey       = "parent"
	lastUpdatedKey  = "lastUpdated"
	builtLocallyKey = "builtLocally"
)

// NewImageStore returns the images of a backend whose layers are given out by layers. Entries that are no images, or whose layers
// are not there, are passed over. What others put into the backend later, or take away, is seen at the next call.
func NewImageStore(backend StoreBackend, layers LayerGetReleaser) (Store, error) {
	s := &imageStore{backend: backend, layers: layers, images: map[ID]*storedImage{}}
	if err := s.refresh(); err != nil {
		return nil, fmt.Errorf("reading images: %w", err)
	}
	return s, nil
}

type imageStore struct {
	backend StoreBackend
	layers  LayerGetReleaser

	mu     sync.Mutex
	images map[ID]*storedImage
}

// storedImage is an image whose layers are held.
type storedImage struct {
	// layer is the topmost one, nil for an image without layers.
	layer StoredLayer
}

// refresh takes in what the backend holds now. The lock is held.
func (s *imageStore) refresh() error {
	there := map[ID]bool{}
	err := s.backend.Walk(func(d digest.Digest) error {
		id := ID(d)
		if s.images[id] == nil {
			img, err := s.load(id)
			if err != nil {
				return nil
			}
			l, err := s.hold(img)
			if err != nil {
				return nil
			}
			s.images[id] = &storedImage{layer: l}
		}
		there[id] = true
		return nil
	})
	if err != nil {
		return err
	}
	for id, img := range s.images {
		if there[id] {
			continue
		}
		delete(s.images, id)
		if img.layer != nil {
			if _, err := s.layers.Release(img.layer); err != nil {
				return err
			}
		}
	}
	return nil
}

// load reads an image from the backend.
func (s *imageStore) load(id ID) (*Image, error) {
	config, err := s.backend.Get(id.Digest())
	if err != nil {
		return nil, fmt.Errorf("reading image %s: %w", id, err)
	}
	img, err := NewFromJSON(config)
	if err != nil {
		return nil, fmt.Errorf("reading image %s: %w", id, err)
	}
	img.computedID = id
	if img.Parent, err = s.parent(id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if d, ok := s.backend.(detailer); ok {
		img.Details = d.details(id.Digest())
	}
	return img, nil
}

// detailer is a backend that knows more about images than their configs.
type detailer interface{ details(digest.Digest) *Details }

// learner is a LayerGetReleaser that has to be told which layers a ChainID stands for.
type learner interface{ learn([]digest.Digest) }

// hold gets the layers of an image.
func (s *imageStore) hold(img *Image) (StoredLayer, error) {
	chain := img.RootFS.ChainID()
	if chain == "" {
		return nil, nil
	}
	if l, ok := s.layers.(learner); ok {
		l.learn(img.RootFS.DiffIDs)
	}
	l, err := s.layers.Get(chain)
	if err != nil {
		return nil, fmt.Errorf("getting layer %s: %w", chain, err)
	}
	return l, nil
}

// Create implements Store.
func (s *imageStore) Create(config []byte) (ID, error) {
	img, err := NewFromJSON(config)
	if err != nil {
		return "", err
	}
	named := 0
	for _, h := range img.History {
		if !h.EmptyLayer {
			named++
		}
	}
	if named > len(img.RootFS.DiffIDs) {
		return "", invalid{errors.New("too many non-empty layers in History section")}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[img.ID()] != nil {
		if _, err := s.backend.Get(img.ID().Digest()); err == nil {
			return img.ID(), nil
		}
		if _, err := s.drop(img.ID()); err != nil {
			return "", err
		}
	}
	l, err := s.hold(img)
	if err != nil {
		return "", fmt.Errorf("creating image %s: %w", img.ID(), err)
	}
	if _, err := s.backend.Set(config); err != nil {
		if l != nil {
			_, rerr := s.layers.Release(l)
			err = errors.Join(err, rerr)
		}
		return "", fmt.Errorf("creating image %s: %w", img.ID(), err)
	}
	s.images[img.ID()] = &storedImage{layer: l}
	return img.ID(), nil
}

// Get implements Store.
func (s *imageStore) Get(id ID) (*Image, error) {
	if d, ok := s.backend.(detailer); ok {
		s.mu.Lock()
		err := s.refresh()
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if d.details(id.Digest()) == nil {
			return nil, notFoundf("no such image: %s", id) // its content may be there still
		}
	}
	return s.load(id)
}

// Delete implements Store.
func (s *imageStore) Delete(id ID) ([]LayerMetadata, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.find(id); err != nil {
		return nil, fmt.Errorf("deleting image: %w", err)
	}
	for _, child := range s.childrenOf(id) {
		if err := s.backend.DeleteMetadata(child.Digest(), parentKey); err != nil {
			return nil, fmt.Errorf("deleting image %s: %w", id, err)
		}
	}
	if err := s.backend.Delete(id.Digest()); err != nil {
		return nil, fmt.Errorf("deleting image %s: %w", id, err)
	}
	return s.drop(id)
}

// drop forgets an image and gives its layers back. The lock is held.
func (s *imageStore) drop(id ID) ([]LayerMetadata, error) {
	img := s.images[id]
	delete(s.images, id)
	if img.layer == nil {
		return nil, nil
	}
	return s.layers.Release(img.layer)
}

// find makes sure that an image is there. The lock is held.
func (s *imageStore) find(id ID) error {
	if err := s.refresh(); err != nil {
		return err
	}
	if s.images[id] == nil {
		return notFoundf("no such image: %s", id)
	}
	return nil
}

// Search implements Store.
func (s *imageStore) Search(partialID string) (ID, error) {
	prefix := strings.TrimPrefix(partialID, digest.SHA256.String()+":")
	if !isHex(prefix) {
		return "", notFoundf("no such image: %s", partialID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(); err != nil {
		return "", err
	}
	var found ID
	for id := range s.images {
		if !strings.HasPrefix(id.Digest().Encoded(), prefix) {
			continue
		}
		if found != "" {
			return "", invalidf("%s is the beginning of several image IDs", partialID)
		}
		found = id
	}
	if found == "" {
		return "", notFoundf("no such image: %s", partialID)
	}
	return found, nil
}

// SetParent implements Store.
func (s *imageStore) SetParent(id, parent ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range []ID{id, parent} {
		if err := s.find(i); err != nil {
			return fmt.Errorf("setting the parent of image %s: %w", id, err)
		}
	}
	return s.backend.SetMetadata(id.Digest(), parentKey, []byte(parent))
}

// GetParent implements Store.
func (s *imageStore) GetParent(id ID) (ID, error) { return s.parent(id) }

func (s *imageStore) parent(id ID) (ID, error) {
	data, err := s.backend.GetMetadata(id.Digest(), parentKey)
	if err != nil {
		return "", err
	}
	d, err := digest.Parse(string(data))
	if err != nil {
		return "", fmt.Errorf("reading the parent of image %s: %w", id, err)
	}
	return ID(d), nil
}

// SetLastUpdated implements Store.
func (s *imageStore) SetLastUpdated(id ID) error {
	return s.backend.SetMetadata(id.Digest(), lastUpdatedKey, []byte(time.Now().UTC().Format(time.RFC3339Nano)))
}

// GetLastUpdated implements Store.
func (s *imageStore) GetLastUpdated(id ID) (time.Time, error) {
	data, err := s.backend.GetMetadata(id.Digest(), lastUpdatedKey)
	if err != nil || len(data) == 0 {
		return time.Time{}, ignoreMissing(err)
	}
	return time.Parse(time.RFC3339Nano, string(data))
}

// SetBuiltLocally implements Store.
func (s *imageStore) SetBuiltLocally(id ID) error {
	return s.backend.SetMetadata(id.Digest(), builtLocallyKey, []byte{1})
}

// IsBuiltLocally implements Store.
func (s *imageStore) IsBuiltLocally(id ID) (bool, error) {
	data, err := s.backend.GetMetadata(id.Digest(), builtLocallyKey)
	return err == nil && len(data) > 0, ignoreMissing(err)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Children implements Store.
func (s *imageStore) Children(id ID) []ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refresh() != nil {
		return nil
	}
	return s.childrenOf(id)
}

func (s *imageStore) childrenOf(id ID) []ID {
	var children []ID
	for child := range s.images {
		if parent, err := s.parent(child); err == nil && parent == id {
			children = append(children, child)
		}
	}
	slices.Sort(children)
	return children
}

// Map implements Store.
func (s *imageStore) Map() map[ID]*Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[ID]*Image{}
	if s.refresh() != nil {
		return all
	}
	for id := range s.images {
		if img, err := s.load(id); err == nil {
			all[id] = img
		}
	}
	return all
}

// Heads implements Store.
func (s *imageStore) Heads() map[ID]*Image {
	all := s.Map()
	var parents []ID
	for _, img := range all {
		parents = append(parents, img.Parent)
	}
	for _, p := range parents {
		delete(all, p)
	}
	return all
}

// Len implements Store.
func (s *imageStore) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refresh() != nil {
		return 0
	}
	return len(s.images)
}
