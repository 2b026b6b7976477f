// Package attack is what tests of races need: somebody who exchanges names for links to the outside all the time, and files there that must
// neither change nor be read.
package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Secret is what is in the files of a canary, and must be in nothing that is made of what lies beside it.
const Secret = "only for this machine"

// Canary is a tree of files that must stay as it is to the last inode, with a room in the middle of it in which anything may happen.
type Canary struct {
	// Dir is the tree. Outside is a directory in it, with files "x" and "dir/x" as a victim may have them, and Room an empty directory
	// two levels below Dir.
	Dir, Outside, Room string

	was string
}

// NewCanary makes a canary in a directory of its own.
func NewCanary(t testing.TB) *Canary {
	t.Helper()
	dir := Dir(t)
	c := &Canary{Dir: dir, Outside: filepath.Join(dir, "outside"), Room: filepath.Join(dir, "outside/dir/room")}
	for _, d := range []string{filepath.Join(dir, "etc"), c.Room} {
		must(t, os.MkdirAll(d, 0o755))
	}
	for _, f := range []string{"etc/passwd", "x", "etc/x", "outside/x", "outside/dir/x", "outside/dir/passwd"} {
		must(t, os.WriteFile(filepath.Join(dir, f), []byte(Secret), 0o640))
	}
	must(t, os.Symlink("etc/passwd", filepath.Join(c.Outside, "dir/link")))
	c.was = c.state(t)
	return c
}

// Renew makes the room anew, empty.
func (c *Canary) Renew(t testing.TB) {
	t.Helper()
	must(t, os.RemoveAll(c.Room))
	must(t, os.Mkdir(c.Room, 0o755))
	c.was = c.state(t)
}

// Check fails the test if a file changed: its content, inode, mode, owner, links or times.
func (c *Canary) Check(t testing.TB) {
	t.Helper()
	if is := c.state(t); is != c.was {
		t.Errorf("something outside changed, from\n%s\nto\n%s", c.was, is)
	}
}

func (c *Canary) state(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(c.Dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == c.Room {
			return filepath.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %d %o %d %d %d %d %v %v\n", p, st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim)
		if d.Type().IsRegular() {
			content, err := os.ReadFile(p)
			fmt.Fprintf(&b, "%q\n", content)
			return err
		}
		return nil
	}))
	return b.String()
}

// inMemory is where Linux has a file system in memory for everyone.
const inMemory = "/dev/shm"

// Dir is an empty directory for files that are made and removed thousands of times: in memory, where that takes the attributes that layers
// have, else as t.TempDir. It is gone after the test. What is beside it is the test's own too, for links of hostile trees lead there.
func Dir(t testing.TB) string {
	t.Helper()
	top, err := os.MkdirTemp(inMemory, "cairn-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(top); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(top, "dir")
	must(t, os.Mkdir(dir, 0o700))
	if unix.Setxattr(dir, "user.x", []byte("x"), 0) != nil || unix.Removexattr(dir, "user.x") != nil {
		return t.TempDir()
	}
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
