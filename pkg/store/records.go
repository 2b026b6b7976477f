package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// recordPath is where a document lies. Buckets are named by the program, keys may be any bytes.
func (s *Store) recordPath(bucket, key string) (string, error) {
	ok := bucket != "" && strings.IndexFunc(bucket, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	}) < 0
	if !ok {
		return "", fmt.Errorf("record bucket %q is not of a-z, 0-9 and -", bucket)
	}
	return s.path(recordsDir, bucket, hashName(key)), nil
}

// PutRecord keeps a small document in a bucket under a key of any bytes. It replaces an older one atomically. What a
// document names by digest ("sha256:…") is kept by Prune as long as the document is.
func (s *Store) PutRecord(bucket, key string, data []byte) error {
	return s.putRecord(bucket, key, data, durable)
}

// PutCacheRecord is PutRecord for what can be found out again: after a power cut the document may be missing, never wrong. It costs no
// sync, which a step of a build would feel.
func (s *Store) PutCacheRecord(bucket, key string, data []byte) error {
	return s.putRecord(bucket, key, data, rebuildable)
}

// WriteCacheRecord is PutCacheRecord for a document that may be large: write writes it.
func (s *Store) WriteCacheRecord(bucket, key string, write func(io.Writer) error) error {
	path, err := s.newRecord(bucket, key)
	if err != nil {
		return err
	}
	return s.writeSealed(path, rebuildable, write)
}

func (s *Store) putRecord(bucket, key string, data []byte, keep durability) error {
	path, err := s.newRecord(bucket, key)
	if err != nil {
		return err
	}
	return s.putSealed(path, data, keep)
}

// newRecord is recordPath for a document that will be written.
func (s *Store) newRecord(bucket, key string) (string, error) {
	path, err := s.recordPath(bucket, key)
	if err != nil {
		return "", err
	}
	if err := makeStoreDir(s.path(recordsDir, bucket)); err != nil {
		return "", fmt.Errorf("writing record in %s: %w", bucket, err)
	}
	return path, nil
}

// Record returns a document; fs.ErrNotExist if there is none, or (then also ErrCorrupt) if it is damaged.
func (s *Store) Record(bucket, key string) ([]byte, error) {
	path, err := s.recordPath(bucket, key)
	if err != nil {
		return nil, err
	}
	return readSealed(path)
}

// OpenRecord is Record for a document that may be large: it is read when it is asked for something.
func (s *Store) OpenRecord(bucket, key string) (*Document, error) {
	path, err := s.recordPath(bucket, key)
	if err != nil {
		return nil, err
	}
	return openSealed(path)
}

// DeleteRecord removes a document. One that is not there is no error.
func (s *Store) DeleteRecord(bucket, key string) error {
	path, err := s.recordPath(bucket, key)
	if err != nil {
		return err
	}
	if err := removeFile(path); err != nil {
		return fmt.Errorf("removing record in %s: %w", bucket, err)
	}
	return nil
}

// refDocument is the content of a ref's file. The name may be any bytes, and its file name may be cut.
type refDocument struct {
	Name       []byte             `json:"name"`
	Descriptor ocispec.Descriptor `json:"descriptor"`
}

// maxRefFile keeps an escaped name within the 255 bytes of a file name, with room for a hash after a cut.
const maxRefFile = 180

// refFile is the file name of a ref: all but letters, digits, "_", "-" and inner "." is escaped with "%", and a long one
// ends in its hash. No two names share a file, and none begins with a dot.
func refFile(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() > maxRefFile {
		return b.String()[:maxRefFile] + "~" + hashName(name)
	}
	return b.String()
}

// refName is the name of a ref by its file alone, for one that is damaged; a long name is cut.
func refName(file string) string {
	if name, err := url.PathUnescape(file); err == nil {
		return name
	}
	return file
}

// SetRef names a manifest or index, which must be held, and makes it durable with all that it leads to; Ref, Refs and DeleteRef read, list and remove names. A name is
// any string that is not empty.
func (s *Store) SetRef(name string, d ocispec.Descriptor) error {
	if name == "" {
		return errors.New("setting ref: the name is empty")
	}
	if _, ok := s.HasBlob(d.Digest); !ok {
		return fmt.Errorf("setting ref %q: manifest %s: %w", name, d.Digest, fs.ErrNotExist)
	}
	if err := s.settle(d.Digest); err != nil {
		return fmt.Errorf("setting ref %q: %w", name, err)
	}
	data, err := json.Marshal(refDocument{Name: []byte(name), Descriptor: d})
	if err != nil {
		return fmt.Errorf("setting ref %q: %w", name, err)
	}
	return s.putSealed(s.path(refsDir, refFile(name)), data, durable)
}

// Ref returns what a name stands for; fs.ErrNotExist if nothing.
func (s *Store) Ref(name string) (ocispec.Descriptor, error) {
	got, d, err := s.readRef(refFile(name))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("ref %q: %w", name, err)
	}
	if got != name {
		return ocispec.Descriptor{}, fmt.Errorf("ref %q: %w", name, damagedError{s.path(refsDir, refFile(name))})
	}
	return d, nil
}

func (s *Store) readRef(file string) (string, ocispec.Descriptor, error) {
	path := s.path(refsDir, file)
	data, err := readSealed(path)
	if err != nil {
		return "", ocispec.Descriptor{}, err
	}
	var doc refDocument
	if json.Unmarshal(data, &doc) != nil || doc.Descriptor.Digest.Validate() != nil {
		return "", ocispec.Descriptor{}, damagedError{path}
	}
	return string(doc.Name), doc.Descriptor, nil
}

// Refs returns all names. A damaged ref is left out here and reported by Check.
func (s *Store) Refs() (map[string]ocispec.Descriptor, error) {
	files, err := os.ReadDir(s.path(refsDir))
	if err != nil {
		return nil, fmt.Errorf("listing refs: %w", err)
	}
	refs := make(map[string]ocispec.Descriptor, len(files))
	for _, file := range files {
		name, d, err := s.readRef(file.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing refs: %w", err)
		}
		refs[name] = d
	}
	return refs, nil
}

// DeleteRef removes a name. One that is not there is an error, fs.ErrNotExist.
func (s *Store) DeleteRef(name string) error {
	path := s.path(refsDir, refFile(name))
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing ref %q: %w", name, err)
	}
	return syncDir(s.path(refsDir))
}

// removeFile removes a file; one that is gone is no error.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// digestsIn calls found with every SHA-256 digest that a document names, wherever it stands, until that is an error.
func digestsIn(doc io.Reader, found func(digest.Digest) error) error {
	const prefix = "sha256:"
	const whole = len(prefix) + 64
	buf, kept := make([]byte, 32<<10), 0
	for {
		n, err := io.ReadFull(doc, buf[kept:])
		data := buf[:kept+n]
		for rest := data; ; {
			i := bytes.Index(rest, []byte(prefix))
			if i < 0 || len(rest) < i+whole {
				break
			}
			if d := digest.Digest(rest[i : i+whole]); d.Validate() == nil {
				if err := found(d); err != nil {
					return err
				}
			}
			rest = rest[i+len(prefix):]
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		kept = copy(buf, data[len(data)-(whole-1):]) // one may begin there
	}
}
