package copy

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
)

// glob calls fn for the names that match a pattern, in the order of a walk. Only directories on the way are listed: a "*" never
// matches a "/".
func glob(t layer.Tree, pattern string, fn func(string) error) error {
	parts := strings.Split(pattern, "/")
	n := slices.IndexFunc(parts, hasMeta)
	if n < 0 {
		return fn(unescape(t, pattern))
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("matching %q: %w", "/"+pattern, err)
	}
	base := path.Join(append([]string{"."}, parts[:n]...)...)
	root, err := layer.Resolve(t, base)
	if err != nil {
		return fmt.Errorf("looking up %q: %w", "/"+base, err)
	}
	e, err := t.Lstat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(t, base)
	}
	if err != nil {
		return fmt.Errorf("looking up %q: %w", "/"+base, err)
	}
	if e.Type != layer.Dir {
		return nil
	}
	return globIn(t, root, parts[n:], fn)
}

// unescape takes the backslashes out of a pattern without wildcards, unless there is a file whose name has them, which BuildKit
// would copy.
func unescape(t layer.Tree, pattern string) string {
	if !strings.Contains(pattern, `\`) {
		return pattern
	}
	if real, err := layer.Resolve(t, pattern); err == nil {
		if _, err := t.Lstat(real); err == nil {
			return pattern
		}
	}
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		if pattern[i] == '\\' && i+1 < len(pattern) {
			i++
		}
		b.WriteByte(pattern[i])
	}
	return cleanName(b.String())
}

func globIn(t layer.Tree, dir string, parts []string, fn func(string) error) error {
	for e, err := range t.ReadDir(dir) {
		if err != nil {
			return fmt.Errorf("listing %q: %w", "/"+dir, err)
		}
		if ok, _ := path.Match(parts[0], path.Base(e.Path)); !ok {
			continue
		}
		switch {
		case len(parts) == 1:
			err = fn(path.Join(dir, path.Base(e.Path)))
		case e.Type == layer.Dir:
			err = globIn(t, e.Path, parts[1:], fn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hasMeta reports whether a pattern's component is more than a name. A backslash takes the meaning from the next byte.
func hasMeta(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}
