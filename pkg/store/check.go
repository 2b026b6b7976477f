package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Problem is one thing that is wrong with a store.
type Problem struct {
	// What names the thing: a ref, a blob's digest, a path below the root.
	What string
	Err  error
}

func (p Problem) Error() string { return p.What + ": " + p.Err.Error() }

// maxDocument is the size up to which a blob is taken for a manifest, index or config, in bytes.
const maxDocument = 16 << 20

// document has the fields by which manifests, indexes and configs name other things. Which of the three a blob is makes no difference here:
// whatever it names is followed.
type document struct {
	Manifests []ocispec.Descriptor `json:"manifests"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	RootFS    struct {
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// readDocument returns what a blob names: nothing if it is no JSON object.
func (s *Store) readDocument(d digest.Digest) (document, error) {
	size, ok := s.HasBlob(d)
	if !ok {
		return document{}, fs.ErrNotExist
	}
	if size > maxDocument {
		return document{}, nil
	}
	f, err := s.BlobFile(d)
	if err != nil {
		return document{}, err
	}
	defer f.Close()
	// Layers are blobs too: one byte tells them from JSON, without reading the rest.
	var first [1]byte
	if n, _ := f.ReadAt(first[:], 0); n == 0 || first[0] != '{' {
		return document{}, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxDocument))
	if err != nil {
		return document{}, err
	}
	if d.Algorithm().FromBytes(data) != d {
		return document{}, damagedError{f.Name()}
	}
	var doc document
	if json.Unmarshal(data, &doc) != nil {
		return document{}, nil
	}
	return doc, nil
}

// Check looks for damage: names that lead nowhere, files that are not what they should be, and, with readData, blobs whose
// content is not what their digest says. It changes nothing.
func (s *Store) Check(ctx context.Context, readData bool) []Problem {
	c := checker{s: s, ctx: ctx, seen: map[digest.Digest]bool{}}
	c.refs()
	c.sealed(layersDir)
	c.sealed(recordsDir)
	c.blobs(readData)
	if err := ctx.Err(); err != nil {
		c.add("check", err)
	}
	return c.problems
}

// checker lives for one call of Check.
type checker struct {
	s        *Store
	ctx      context.Context
	seen     map[digest.Digest]bool
	problems []Problem
}

func (c *checker) add(what string, err error) {
	c.problems = append(c.problems, Problem{What: what, Err: err})
}

// refs checks that every name leads to a manifest, and that to its config and layers.
func (c *checker) refs() {
	files, err := os.ReadDir(c.s.path(refsDir))
	if err != nil {
		c.add(refsDir, err)
	}
	for _, file := range files {
		name, d, err := c.s.readRef(file.Name())
		switch {
		case err != nil:
			c.add(filepath.Join(refsDir, file.Name()), err)
		case refFile(name) != file.Name():
			c.add(filepath.Join(refsDir, file.Name()), damagedError{file.Name()})
		default:
			c.manifest(fmt.Sprintf("ref %q", name), d.Digest)
		}
	}
}

// manifest checks a manifest or index that is named by what. Of an index not every platform need be here.
func (c *checker) manifest(what string, d digest.Digest) {
	if c.seen[d] {
		return
	}
	c.seen[d] = true
	doc, err := c.s.readDocument(d)
	if err != nil {
		c.add(fmt.Sprintf("%s: manifest %s", what, d), err)
		return
	}
	for _, m := range doc.Manifests {
		if _, ok := c.s.HasBlob(m.Digest); ok {
			c.manifest(what, m.Digest)
		}
	}
	if doc.Config == nil {
		return
	}
	config, err := c.s.readDocument(doc.Config.Digest)
	if err != nil {
		c.add(fmt.Sprintf("%s: config %s", what, doc.Config.Digest), err)
	}
	for i, l := range doc.Layers {
		if size, ok := c.s.HasBlob(l.Digest); ok {
			if size != l.Size {
				c.add(fmt.Sprintf("%s: layer %s", what, l.Digest), fmt.Errorf("is %d bytes long, not %d", size, l.Size))
			}
			continue
		}
		if i < len(config.RootFS.DiffIDs) {
			if known, err := c.s.Layer(config.RootFS.DiffIDs[i]); err == nil && known.Origin != "" {
				continue
			}
		}
		c.add(fmt.Sprintf("%s: layer %s", what, l.Digest), fs.ErrNotExist)
	}
}

// sealed checks the checksums of the documents below a directory.
func (c *checker) sealed(dir string) {
	err := filepath.WalkDir(c.s.path(dir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || c.ctx.Err() != nil {
			return errors.Join(err, c.ctx.Err())
		}
		doc, err := openSealed(path)
		if err == nil {
			return doc.Close()
		}
		if !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrCorrupt) {
			c.add(strings.TrimPrefix(path, c.s.root+"/"), err)
		}
		return nil
	})
	if err != nil && c.ctx.Err() == nil {
		c.add(dir, err)
	}
}

func (c *checker) blobs(readData bool) {
	for b, err := range c.s.Blobs() {
		if c.ctx.Err() != nil {
			return
		}
		if err != nil {
			c.add(blobsDir, err)
			continue
		}
		if !readData {
			continue
		}
		f, err := c.s.BlobFile(b.Digest)
		if err != nil {
			c.add("blob "+b.Digest.String(), err)
			continue
		}
		verifier := b.Digest.Verifier()
		if _, err = io.Copy(verifier, &contextReader{c.ctx, f}); err == nil && !verifier.Verified() {
			err = damagedError{f.Name()}
			if fi, serr := f.Stat(); serr == nil && c.s.doubtful(fi) {
				err = nil // a power cut took it; whoever looks it up drops it
			}
		}
		if f.Close(); err != nil {
			c.add("blob "+b.Digest.String(), err)
		}
	}
}

// contextReader stops reading when its context ends. It lives for one copy.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// chainIDs returns the ChainIDs of every prefix of a list of DiffIDs.
func chainIDs(diffIDs []digest.Digest) []digest.Digest {
	chain := append([]digest.Digest(nil), diffIDs...)
	return identity.ChainIDs(chain)
}
