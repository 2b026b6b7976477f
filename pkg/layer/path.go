package layer

import (
	"fmt"
	"path"
	"strings"
)

const (
	// maxPath and maxName are what Linux takes (limits.h: PATH_MAX, NAME_MAX). A longer name could be listed but never unpacked.
	maxPath = 4096
	maxName = 255
	// maxLinks is the most symlinks followed for one name, as in containerd's fs.RootPath.
	maxLinks = 255
)

// Less is the order of entries in a layer: the root first, then by path, component by component, so that what is in a directory
// follows the directory at once ("a", "a/b", "a.b"). It is the order in which BuildKit's differ walks.
func Less(a, b string) bool { return compare(a, b) < 0 }

func compare(a, b string) int {
	if a == b {
		return 0
	}
	if a == "." {
		return -1
	}
	if b == "." {
		return 1
	}
	n, i := min(len(a), len(b)), 0
	for i+16 <= n && a[i:i+16] == b[i:i+16] {
		i += 16
	}
	for ; i < n; i++ {
		ca, cb := a[i], b[i]
		if ca == cb {
			continue
		}
		// No name contains NUL, so the separator can take its place before every other byte.
		if ca == '/' {
			return -1
		}
		if cb == '/' || ca > cb {
			return 1
		}
		return -1
	}
	return len(a) - len(b)
}

// parentOf and baseOf are path.Dir and path.Base for clean relative paths, without the cost of cleaning them once more.
func parentOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return "."
}

func baseOf(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// below reports whether name is strictly below the directory dir.
func below(dir, name string) bool {
	if dir == "." {
		return name != "."
	}
	return len(name) > len(dir) && name[len(dir)] == '/' && name[:len(dir)] == dir
}

func join(dir, base string) string {
	if dir == "." {
		return base
	}
	return dir + "/" + base
}

// cleanName makes any name of an archive relative to the root and clean. ".." cannot leave the root: "../x" is "x".
func cleanName(name string) string {
	if isClean(name) {
		return name
	}
	name = path.Clean("/" + name)[1:]
	if name == "" {
		return "."
	}
	return name
}

// isClean reports whether name has the form of an Entry's Path.
func isClean(name string) bool {
	if name == "." {
		return true
	}
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		switch name[start:i] {
		case "", ".", "..":
			return false
		}
		start = i + 1
	}
	return true
}

// checkName refuses what no file system takes.
func checkName(name string) error {
	if len(name) >= maxPath {
		return fmt.Errorf("path %.60q... is longer than %d bytes", name, maxPath-1)
	}
	for rest := name; rest != ""; {
		var c string
		c, rest, _ = strings.Cut(rest, "/")
		if len(c) > maxName {
			return fmt.Errorf("name %.60q... is longer than %d bytes", c, maxName)
		}
	}
	if strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("path %q contains NUL", name)
	}
	return nil
}
