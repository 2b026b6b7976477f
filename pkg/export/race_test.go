package export_test

import (
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/export/exporttest"
	"github.com/cairn-build/cairn/test/attack"
	"github.com/cairn-build/cairn/test/torture"
)

// TestLocalRace: somebody exchanges directories of the destination for a link to the outside while a root filesystem is written there.
func TestLocalRace(t *testing.T) {
	rounds := torture.Times(50, 2000)
	c := attack.NewCanary(t)
	f := exporttest.New(t)
	dest := filepath.Join(c.Room, "dest")
	x := attack.Exchange(t, c.Room, c.Outside)
	whole := 0
	for i := range rounds {
		if i == 1 {
			// What is there from now on is written over.
			x.At(dest+"/app", dest+"/etc", dest+"/usr", dest+"/usr/lib")
		}
		_, err := export.Export(t.Context(), parse(t, "type=local,dest="+dest), f.Request, f.Deps)
		if i == 0 && err != nil {
			t.Fatal(err)
		}
		if err == nil {
			whole++
		}
	}
	x.Stop()
	c.Check(t)
	torture.Figure(t, "T3", "%d root filesystems written to a directory while directories there were exchanged for links to the outside (%d came through): nothing outside changed",
		rounds, whole)
}
