package layer

import (
	"fmt"
	"path"
	"strings"
	"syscall"
)

// Resolve follows the symlinks of name inside t, including the last component when it is one, and returns the clean path
// that is meant. The path returned may not exist; at most 255 links are followed (then the error is ELOOP). ".." never
// leaves the root.
func Resolve(t Tree, name string) (string, error) {
	return resolve(name, func(p string) (string, bool, error) { return lowerLink(t, p) })
}

// ResolveParent is Resolve for all but the last component of name: the path returned may be that of a symlink.
func ResolveParent(t Tree, name string) (string, error) {
	name = strings.TrimRight(name, "/")
	dir, base := path.Split(name)
	switch base {
	case "", ".", "..":
		return Resolve(t, name)
	}
	dir, err := Resolve(t, dir)
	if err != nil {
		return "", err
	}
	return join(dir, base), nil
}

// linkFunc returns the target of the symlink at a clean path; false for everything else, also for nothing.
type linkFunc func(name string) (target string, ok bool, err error)

// resolve walks name from the root as the kernel would, with link answering for every component.
func resolve(name string, link linkFunc) (string, error) {
	cur, rest := ".", name
	for links := 0; rest != ""; {
		var c string
		c, rest, _ = strings.Cut(rest, "/")
		switch c {
		case "", ".":
			continue
		case "..":
			cur = parentOf(cur)
			continue
		}
		next := join(cur, c)
		if len(next) >= maxPath {
			return "", fmt.Errorf("resolving %.60q...: %w", name, syscall.ENAMETOOLONG)
		}
		target, ok, err := link(next)
		if err != nil {
			return "", err
		}
		if !ok {
			cur = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolving %q: %w", name, syscall.ELOOP)
		}
		if strings.HasPrefix(target, "/") {
			cur = "."
		}
		if rest = target + "/" + rest; len(rest) > 2*maxPath {
			return "", fmt.Errorf("resolving %.60q...: %w", name, syscall.ENAMETOOLONG)
		}
	}
	return cur, nil
}
