package copy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/cairn-build/cairn/pkg/layer"
)

// files are those of one match.
type files struct {
	tree   layer.Tree
	origin int
	match  string // what is copied where: the sources of --parents have it in common
}

// link returns the node.link of a file: that of the other files of the match that are hard links of it.
func (f files) link(name string) (string, error) {
	id, err := f.tree.LinkID(name)
	if err != nil {
		return "", fmt.Errorf("looking up the links of %q: %w", "/"+name, err)
	}
	if id == "" {
		return "", nil
	}
	// It is a name in tables, and an id may be any text.
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s", f.match, id))
	return hex.EncodeToString(sum[:16]), nil
}

// join makes e a name of what n is, as an archive says. One file has one owner, mode and time: those of the entry read last.
func (u *upper) join(n *node, e layer.Entry) error {
	if n.link == "" {
		u.joined++
		n.link = fmt.Sprintf("%016x", u.joined)
	}
	other := *n
	other.Path = e.Path
	if err := u.put(n); err != nil {
		return err
	}
	if err := u.put(&other); err != nil {
		return err
	}
	e.Path, e.Type, e.Xattrs = n.link, layer.File, nil
	return u.links.put(&node{Entry: e})
}
