package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// StoreBackend keeps documents by digest, and small values with each.
type StoreBackend interface {
	// Walk calls f with the digest of each document. An error of f ends the walk and is returned.
	Walk(f DigestWalkFunc) error
	// Get returns a document; one that is not what its digest says is an error.
	Get(id digest.Digest) ([]byte, error)
	// Set keeps a document and returns its digest. An empty one is an error.
	Set(data []byte) (digest.Digest, error)
	// Delete removes a document and the values kept with it.
	Delete(id digest.Digest) error
	// SetMetadata keeps a value with a document, which must be there; GetMetadata returns it, DeleteMetadata removes it.
	SetMetadata(id digest.Digest, key string, data []byte) error
	GetMetadata(id digest.Digest, key string) ([]byte, error)
	DeleteMetadata(id digest.Digest, key string) error
}

// DigestWalkFunc is what Walk calls.
type DigestWalkFunc func(id digest.Digest) error

// fsBackend is the StoreBackend in a directory.
type fsBackend struct {
	mu   sync.RWMutex
	root string
}

// The directories of a backend.
const (
	contentDir  = "content"
	metadataDir = "metadata"
)

// NewFSStoreBackend returns the documents in a directory, which is made if it is missing (mode 0700), in Docker's layout:
// content/sha256/HEX and metadata/sha256/HEX/KEY. Files have mode 0600, and are written so that they are whole or not there.
func NewFSStoreBackend(root string) (StoreBackend, error) {
	for _, dir := range []string{contentDir, metadataDir} {
		if err := os.MkdirAll(filepath.Join(root, dir, digest.SHA256.String()), 0o700); err != nil {
			return nil, fmt.Errorf("making image backend: %w", err)
		}
	}
	return &fsBackend{root: root}, nil
}

// path is where a digest's document or values are. The digest may be anybody's words, so it is checked before it becomes a path.
func (b *fsBackend) path(dir string, id digest.Digest) (string, error) {
	if err := id.Validate(); err != nil {
		return "", invalidf("digest %q: %w", id, err)
	}
	if id.Algorithm() != digest.SHA256 {
		return "", invalidf("digest %q: algorithm %s is not supported", id, id.Algorithm())
	}
	return filepath.Join(b.root, dir, id.Algorithm().String(), id.Encoded()), nil
}

// Walk implements StoreBackend. Files whose names are no digests are passed over.
func (b *fsBackend) Walk(f DigestWalkFunc) error {
	b.mu.RLock()
	files, err := os.ReadDir(filepath.Join(b.root, contentDir, digest.SHA256.String()))
	b.mu.RUnlock()
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	for _, file := range files {
		id := digest.NewDigestFromEncoded(digest.SHA256, file.Name())
		if id.Validate() != nil {
			continue
		}
		if err := f(id); err != nil {
			return err
		}
	}
	return nil
}

// Get implements StoreBackend.
func (b *fsBackend) Get(id digest.Digest) ([]byte, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.get(id)
}

func (b *fsBackend) get(id digest.Digest) ([]byte, error) {
	path, err := b.path(contentDir, id)
	if err != nil {
		return nil, err
	}
	data, err := readDocument(path)
	if err != nil {
		return nil, fmt.Errorf("getting %s: %w", id, err)
	}
	if digest.FromBytes(data) != id {
		return nil, fmt.Errorf("getting %s: the content does not have this digest", id)
	}
	return data, nil
}

// readDocument reads a file of at most maxConfig bytes.
func readDocument(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound{err}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxConfig)
	}
	return data, err
}

// Set implements StoreBackend.
func (b *fsBackend) Set(data []byte) (digest.Digest, error) {
	if len(data) == 0 {
		return "", invalid{errors.New("keeping an image config: it is empty")}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	id := digest.FromBytes(data)
	path, err := b.path(contentDir, id)
	if err == nil {
		err = writeDocument(path, data)
	}
	if err != nil {
		return "", fmt.Errorf("keeping %s: %w", id, err)
	}
	return id, nil
}

// writeDocument writes a file that is whole or not there, whatever happens meanwhile. The name it has until then is no digest.
func writeDocument(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Delete implements StoreBackend.
func (b *fsBackend) Delete(id digest.Digest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	content, err := b.path(contentDir, id)
	if err != nil {
		return err
	}
	metadata, err := b.path(metadataDir, id)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(metadata); err != nil {
		return fmt.Errorf("deleting %s: %w", id, err)
	}
	if err := os.Remove(content); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting %s: %w", id, err)
	}
	return nil
}

// metadata is where a value is kept.
func (b *fsBackend) metadata(id digest.Digest, key string) (string, error) {
	if key == "" || strings.HasPrefix(key, ".") || strings.ContainsAny(key, "/\x00") {
		return "", invalidf("metadata key %q is no file name", key)
	}
	dir, err := b.path(metadataDir, id)
	return filepath.Join(dir, key), err
}

// SetMetadata implements StoreBackend.
func (b *fsBackend) SetMetadata(id digest.Digest, key string, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	path, err := b.metadata(id, key)
	if err != nil {
		return err
	}
	if _, err := b.get(id); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keeping metadata %s of %s: %w", key, id, err)
	}
	if err := writeDocument(path, data); err != nil {
		return fmt.Errorf("keeping metadata %s of %s: %w", key, id, err)
	}
	return nil
}

// GetMetadata implements StoreBackend.
func (b *fsBackend) GetMetadata(id digest.Digest, key string) ([]byte, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	path, err := b.metadata(id, key)
	if err != nil {
		return nil, err
	}
	if _, err := b.get(id); err != nil {
		return nil, err
	}
	data, err := readDocument(path)
	if err != nil {
		return nil, fmt.Errorf("getting metadata %s of %s: %w", key, id, err)
	}
	return data, nil
}

// DeleteMetadata implements StoreBackend.
func (b *fsBackend) DeleteMetadata(id digest.Digest, key string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	path, err := b.metadata(id, key)
	if err != nil {
		return err
	}
	if _, err := b.get(id); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting metadata %s of %s: %w", key, id, err)
	}
	return nil
}
