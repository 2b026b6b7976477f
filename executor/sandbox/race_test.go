package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/test/attack"
	"github.com/cairn-build/cairn/test/torture"
	"golang.org/x/sys/unix"
)

// TestMountPointsRace: somebody exchanges directories of a root filesystem, as another step can those of a cache mount, for a link to the outside
// while mount points are made below them and removed.
func TestMountPointsRace(t *testing.T) {
	rounds := torture.Times(500, 2000)
	c := attack.NewCanary(t)
	root := filepath.Join(c.Room, "root")
	if err := os.MkdirAll(filepath.Join(root, "d/dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	x := attack.Exchange(t, c.Room, c.Outside)
	x.At(root+"/d", root+"/d/dir")
	made := 0
	for range rounds {
		fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		m := MountPoints{Root: os.NewFile(uintptr(fd), root)}
		_, dirErr := m.Target("/d/dir/new/mount", true, nil)
		_, fileErr := m.Target("/d/dir/file", false, nil)
		if dirErr == nil && fileErr == nil {
			made++
		}
		_ = m.Remove()
		m.Root.Close()
	}
	x.Stop()
	c.Check(t)
	if made == 0 {
		t.Error("no mount point was made")
	}
	torture.Figure(t, "T3", "%d times mount points made and removed while directories on their way were exchanged for links to the outside (%d times undisturbed): nothing outside changed",
		rounds, made)
}
