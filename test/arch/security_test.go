package arch

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// attacks is how many rows each table of docs/SECURITY.md has.
var attacks = map[string]int{"A": 16, "B": 22, "C": 7, "D": 9, "E": 5, "F": 3}

// TestAttacks holds docs/SECURITY.md together with the tests: every attack names tests, which exist, or says why it cannot apply.
func TestAttacks(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-F]\d+) \|.*\| ([^|]+) \|$`).FindAllStringSubmatch(string(data), -1) {
		rows[m[1]] = m[2]
	}
	s := sources{}
	for table, n := range attacks {
		for i := range n {
			row := fmt.Sprint(table, i+1)
			tests := regexp.MustCompile("`([^ `]+) ([^`]+)`").FindAllStringSubmatch(rows[row], -1)
			if len(tests) == 0 && !strings.HasPrefix(rows[row], "cannot apply: ") {
				t.Errorf("%s has no test and no reason: %q", row, rows[row])
			}
			for _, m := range tests {
				if !s.has(t, m[1], m[2]) {
					t.Errorf("%s names %s in %s, which is not there", row, m[2], m[1])
				}
			}
			delete(rows, row)
		}
	}
	for row := range rows {
		t.Errorf("%s is in no table", row)
	}
}

// sources is the text of the Go files of folders, as far as it was read.
type sources map[string]string

// has reports whether a folder has a test function of that name, or a case that is called so in a table.
func (s sources) has(t *testing.T, dir, name string) bool {
	t.Helper()
	if _, ok := s[dir]; !ok {
		files, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			s[dir] += string(data)
		}
	}
	if prefix, all := strings.CutSuffix(name, "*"); all {
		return strings.Contains(s[dir], `"`+prefix)
	}
	return strings.Contains(s[dir], "\nfunc "+name+"(") || strings.Contains(s[dir], `{"`+name+`", `)
}

// TestToolchain is A10: os.Root followed a link whose name ended with a slash before Go 1.26.5 (CVE-2026-39822).
func TestToolchain(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var major, minor, patch int
	line := regexp.MustCompile(`(?m)^go .*$`).FindString(string(data))
	if n, err := fmt.Sscanf(line, "go %d.%d.%d", &major, &minor, &patch); n != 3 || major != 1 || minor*1000+patch < 26_005 {
		t.Errorf("go.mod says %q (%v), and wants at least go 1.26.5", line, err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", filepath.Join(dir, "root", "link")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{"link", "link/", "link//", "link/.", "./link/"} {
		if f, err := root.Open(name); err == nil {
			f.Close()
			t.Errorf("os.Root opened %q, which leads out", name)
		}
		if _, err := root.Stat(name); err == nil {
			t.Errorf("os.Root looked at %q, which leads out", name)
		}
	}
}
