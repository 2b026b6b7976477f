package copy

import (
	"fmt"
	"path"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/suggest"
)

// Ignorer is implemented by trees that leave out files on purpose: a build context with a .dockerignore.
type Ignorer interface {
	// Ignored reports whether name exists but is left out, and by what.
	Ignored(name string) (by string, ok bool)
}

// notFound is the error for a name that is not there, with what may have been meant.
func notFound(t layer.Tree, name string) error {
	err := &NotFoundError{Path: "/" + name}
	if name == "." {
		err.Path = "/"
		return err
	}
	if ig, ok := t.(Ignorer); ok {
		if by, ok := ig.Ignored(name); ok {
			err.Hint = "it is excluded by " + by
			return err
		}
	}
	// The first component that is missing is the one to explain.
	dir, base := path.Split(name)
	for {
		dir = cleanName(dir)
		if real, rerr := layer.Resolve(t, dir); rerr == nil {
			if names, rerr := layer.Names(t, real); rerr == nil {
				if s := suggest.Nearest(base, names); s != "" {
					err.Hint = fmt.Sprintf("did you mean %q?", path.Join("/", dir, s))
				}
				return err
			}
		}
		if dir == "." {
			return err
		}
		dir, base = path.Split(dir)
	}
}
