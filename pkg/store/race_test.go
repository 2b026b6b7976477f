package store

import (
	"errors"
	"fmt"
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
	x := attack.Exchange(t, c.Room, c.Outside)
	gone := 0
	for i := range rounds {
		dir := filepath.Join(c.Room, fmt.Sprint(i))
		plant(t, dir)
		x.At(dir+"/d", dir+"/d/dir")
		if removeTree(dir) == nil {
			gone++
		}
	}
	x.Stop()
	c.Check(t)
	torture.Figure(t, "T3", "%d trees removed while their directories were exchanged for links to the outside (%d were gone at once): nothing outside changed", rounds, gone)
}

func plant(t *testing.T, dir string) {
	t.Helper()
	err := os.MkdirAll(filepath.Join(dir, "d/dir"), 0o755)
	for _, name := range []string{"d/x", "d/dir/x", "d/dir/passwd"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o644))
	}
	for i := range 50 {
		err = errors.Join(err, os.Symlink("x", filepath.Join(dir, "d/dir", fmt.Sprint(i))))
	}
	if err != nil {
		t.Fatal(err)
	}
}
