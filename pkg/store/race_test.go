package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/test/attack"
	"github.com/cairn-build/cairn/test/torture"
)

// TestRemoveRace: somebody exchanges directories for a link to the outside while what they are in is removed.
func TestRemoveRace(t *testing.T) {
	rounds := torture.Times(200, 2000)
	c := attack.NewCanary(t)
	dir := filepath.Join(c.Room, "tree")
	x := attack.Exchange(t, c.Room, c.Outside)
	x.At(dir+"/d", dir+"/d/dir")
	gone := 0
	for range rounds {
		plant(t, dir)
		if removeTree(dir) == nil {
			gone++
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	x.Stop()
	c.Check(t)
	torture.Figure(t, "T3", "%d trees removed while their directories were exchanged for links to the outside (%d were gone at once): nothing outside changed", rounds, gone)
}

// plant makes a tree. What is exchanged meanwhile is not filled: nothing is made below a link to the outside.
func plant(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	_ = root.MkdirAll("d/dir", 0o755)
	for _, name := range []string{"d/x", "d/dir/x", "d/dir/passwd"} {
		_ = root.WriteFile(name, []byte("mine"), 0o644)
	}
}
