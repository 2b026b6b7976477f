package native

import (
	"hash/maphash"

	"golang.org/x/sys/unix"
)

// origin is what a file was when it was put into a root filesystem.
type origin struct {
	ino    uint64
	change int64 // the ctime in nanoseconds
	// linked files never change: what changes has another inode.
	linked bool
}

// origins are those of the files of a root filesystem, of which there may be very many: names are hashed with a seed that nobody knows, so that two
// are not taken for one.
type origins struct {
	seed maphash.Seed
	all  map[uint64]origin
}

func newOrigins() origins { return origins{maphash.MakeSeed(), map[uint64]origin{}} }

func (o origins) of(name string) (origin, bool) {
	found, ok := o.all[maphash.String(o.seed, name)]
	return found, ok
}

func (o origins) set(name string, st *unix.Stat_t, linked bool) {
	o.all[maphash.String(o.seed, name)] = origin{st.Ino, st.Ctim.Nano(), linked}
}

// copy gives a name the origin of another.
func (o origins) copy(name, from string) {
	o.all[maphash.String(o.seed, name)] = o.all[maphash.String(o.seed, from)]
}

func (o origins) forget(name string) { delete(o.all, maphash.String(o.seed, name)) }
