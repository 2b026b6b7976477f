package layer

import "errors"

// Index is the list of a layer's entries, which can be asked without the layer's bytes. It is immutable once made.
type Index struct {
	entries []Entry
	// Names keeps the content of the few files that names are looked up in (etc/passwd, etc/group), up to 1 MiB each.
	names map[string][]byte
}

// Entries returns the entries sorted by path. The caller must not change them.
func (ix *Index) Entries() []Entry { return ix.entries }

// Stack returns the Tree that layers make, bottom first: whiteouts and opaque directories of the upper hide what is below. Content is
// fetched through open, which gets the number of the layer and the path in it; files that the index itself holds (etc/passwd,
// etc/group) never need it.
func Stack(ixs []*Index, open OpenFunc) Tree { return nil }

// Marshal encodes an index; Unmarshal reads it back.
func (ix *Index) Marshal() []byte { return nil }

// Unmarshal decodes what Marshal wrote, or fails.
func Unmarshal(data []byte) (*Index, error) { return nil, errors.New("layer: not written yet") }

// Resolve follows the symlinks of name inside t, including the last component when it is one, and returns the clean path that is meant. The
// path returned may not exist; at most 255 links are followed. ".." never leaves the root.
func Resolve(t Tree, name string) (string, error) { return "", errors.New("layer: not written yet") }
