package source

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"golang.org/x/sys/unix"
)

func TestIgnoreMatch(t *testing.T) {
	for _, c := range []struct{ file, ignored, kept string }{
		{"# comment\n\nfoo", "foo foo/bar", "bar fo foobar a/foo #comment"},
		{" foo \n", "foo", "bar"},
		{"/foo", "foo", "a/foo"},
		{"foo/", "foo foo/x", "bar"},
		{"*.md\n!README.md", "a.md", "README.md d/a.md"},
		{"**/*.md", "a.md d/a.md d/e/a.md", "a.mdx"},
		{"**/foo", "foo a/foo a/b/foo foo/x", "foobar a/xfoo"},
		{"foo/**", "foo/a foo/a/b", "foo bar"},
		{"a/**/z", "a/z a/b/z a/b/c/z a/z/x", "z b/z a/zz"},
		{"*\n!keep", "a b/c", "keep keep/x"},
		{"*\n!d/keep\n", "a d d/x", "d/keep"},
		{"*\n!d\nd/x", "a d/x", "d d/keep"},
		{"d\n!d/e\nd/e/f", "d/a d/e/f", "d/e d/e/g"},
		{"!foo", "", "foo bar"},
		{"a?c", "abc", "ac abbc a/c"},
		{"[ab]x", "ax bx", "cx"},
		{`\!foo`, "!foo", "foo"},
		{`a\*b`, "a*b", "acb"},
		{"a.b", "a.b", "axb"},
		{"a^b", "a^b", ""},
		{"./x/../y", "y", "x"},
		{"**", "a b/c", ""},
		{".", "", "a"},
		{"\ufefffoo", "foo", "bar"},
		{"é*/ö", "éa/ö", "éa/o"},
		{"node_modules\n!node_modules/keep\n**/node_modules", "node_modules/keep", ""},
	} {
		ig, err := ParseIgnore([]byte(c.file), ".dockerignore")
		if err != nil {
			t.Errorf("%q: %v", c.file, err)
			continue
		}
		for _, p := range strings.Fields(c.ignored) {
			if !ig.Match(p) {
				t.Errorf("%q does not ignore %q", c.file, p)
			}
		}
		for _, p := range strings.Fields(c.kept) {
			if ig.Match(p) {
				t.Errorf("%q ignores %q", c.file, p)
			}
		}
	}
	for _, bad := range []string{"!", "[", "a[", "[]a]\n[z-", "x\n! "} {
		if _, err := ParseIgnore([]byte(bad), ".dockerignore"); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestIgnoredTree(t *testing.T) {
	files := []string{"a=", "d/keep=", "d/x=", "d/e/f/keep=", "d/e/g=", "empty/", "m/x.go=", "m/y.c="}
	for _, c := range []struct{ ignore, want string }{
		{"*", "[]"},
		{"d", "[.dockerignore a empty/ m/ m/x.go m/y.c]"},
		{"*\n!d/keep", "[d/ d/keep]"},
		{"*\n!**/keep", "[d/ d/e/ d/e/f/ d/e/f/keep d/keep]"},
		{"**\n!**/*.go", "[m/ m/x.go]"},
		{"*\n!d/e/f", "[d/ d/e/ d/e/f/ d/e/f/keep]"},
		{"*\n!empty", "[empty/]"},
		{"*\n!nothing/here", "[]"},
		{"d/*\n!d/e", "[.dockerignore a d/ d/e/ d/e/f/ d/e/f/keep d/e/g empty/ m/ m/x.go m/y.c]"},
	} {
		dir := t.TempDir()
		write(t, dir, files...)
		write(t, dir, ".dockerignore="+c.ignore)
		tree := openTestDir(t, dir)
		got := names(t, tree, ".")
		if fmt.Sprint(got) != c.want {
			t.Errorf("%q: %v, want %s", c.ignore, got, c.want)
		}
		// Single look-ups say the same as listings.
		fresh := openTestDir(t, dir)
		for _, f := range append(files, ".dockerignore") {
			name, _, _ := strings.Cut(strings.TrimSuffix(f, "/"), "=")
			_, err := fresh.Lstat(name)
			listed := strings.Contains(c.want[:len(c.want)-1]+" ", "["+name+" ") || strings.Contains(c.want, " "+name+" ") ||
				strings.Contains(c.want, " "+name+"]") || strings.Contains(c.want, "["+name+"]") || strings.Contains(c.want, name+"/")
			if (err == nil) != listed {
				t.Errorf("%q: Lstat(%s) says %v, listed is %v", c.ignore, name, err, listed)
			}
			if by, ok := fresh.Ignored(name); ok != (err != nil) && listed != ok {
				t.Errorf("%q: Ignored(%s) = %s %v", c.ignore, name, by, ok)
			}
		}
		if _, err := fresh.Open("d/x"); err == nil && !strings.Contains(c.want, "d/x") {
			t.Errorf("%q: an ignored file is opened", c.ignore)
		}
	}
}

// An ignored directory that cannot be read is no error.
func TestIgnoredUnreadable(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "locked/x=1", ".dockerignore=locked\n!locked/x", "a=")
	locked := filepath.Join(dir, "locked")
	if err := os.Chmod(locked, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(locked, 0o755) })
	tree := openTestDir(t, dir)
	if os.Getuid() == 0 {
		// Root can read everything, until this thread is somebody else to the file system.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Setfsuid(0) }()
	}
	if got := fmt.Sprint(names(t, tree, ".")); got != "[.dockerignore a]" {
		t.Errorf("names %s", got)
	}
}

// SECURITY.md C3: 10,000 patterns over 100,000 paths in 2 seconds (a minute under the race detector or on a busy machine would
// still fail a matcher that tries every pattern on every path, which takes several minutes).
func TestC3ManyPatterns(t *testing.T) {
	var b bytes.Buffer
	for i := range 2500 {
		fmt.Fprintf(&b, "dir%d/*/tmp\n**/cache%d\n*.ext%d\n!dir%d/keep/tmp\n", i, i, i, i)
	}
	ig, err := ParseIgnore(b.Bytes(), ".dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	start, ignored := time.Now(), 0
	for d := range 1000 {
		dir := fmt.Sprintf("dir%d", d)
		top := ig.decide(dir, none)
		for f := range 100 {
			name := fmt.Sprintf("file%d", f)
			if f == 7 {
				name = fmt.Sprintf("cache%d", d)
			}
			if ig.ignores(ig.decide(dir+"/"+name, top)) {
				ignored++
			}
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("100,000 paths took %s", took)
	} else {
		t.Logf("100,000 paths took %s", took)
	}
	if ignored != 1000 {
		t.Errorf("%d paths are ignored, want 1000", ignored)
	}
}

// oracle decides as documented with patternmatcher alone: the last pattern that matches the path or a directory above it.
func oracle(lines []string, name string) (bool, error) {
	ignored := false
	for _, l := range lines {
		pm, err := patternmatcher.New([]string{l})
		if err != nil {
			return false, err
		}
		for _, p := range pm.Patterns() {
			one, err := patternmatcher.New([]string{plainPattern(p.String())})
			if err != nil {
				return false, err
			}
			ok, err := one.MatchesOrParentMatches(name)
			if err != nil {
				return false, err
			}
			if ok {
				ignored = !p.Exclusion()
			}
		}
	}
	return ignored, nil
}

func FuzzDockerignore(f *testing.F) {
	for _, s := range []string{"*\n!a/b", "**/*.go", "a/**/b", "[a-c]?\n!b", `\!x`, "a^b\n^a", "**a", "a**", "é**é", "***", "a/***/b", `a\`, `a\é*`, "!**", "a\xfe*", "*\xfe", "\ufffd?", "|*", "a|b?", "a{2}*", "!a{0,1}/*",
		`\00`, `a\0141`, `\x61`, `\pLu`, `\d*`, `\Q*a\E`} {
		f.Add(s, "a/b/c.go")
	}
	f.Fuzz(func(t *testing.T, file, name string) {
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		if name == "" || len(file) > 200 || len(name) > 200 {
			return
		}
		ig, err := ParseIgnore([]byte(file), "x")
		if err != nil {
			return
		}
		lines, err := ignorefile.ReadAll(strings.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		want, err := oracle(lines, name)
		if err != nil {
			t.Fatalf("%q: accepted, but the matcher says %v", file, err)
		}
		if got := ig.Match(name); got != want {
			t.Errorf("%q on %q: %v, want %v", file, name, got, want)
		}
		if want && ig.hasExcept {
			return
		}
		// Whatever is included again below an ignored directory must be found.
		for dir := path.Dir(name); dir != "." && !want; dir = path.Dir(dir) {
			if ig.Match(dir) && !ig.mayInclude(dir) {
				t.Errorf("%q: %q is included, but not looked for in %q", file, name, dir)
			}
		}
	})
}

func BenchmarkOpenDir(b *testing.B) {
	dir := b.TempDir()
	for i := range 50 {
		for j := range 100 {
			write(b, dir, fmt.Sprintf("d%d/f%d=%d", i, j, j))
		}
	}
	for b.Loop() {
		c, err := OpenDir(context.Background(), dir, ContextOptions{})
		if err != nil {
			b.Fatal(err)
		}
		names(b, c, ".")
		_ = c.Close()
	}
}
