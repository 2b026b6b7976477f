package layer

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cairn-build/cairn/test/torture"
)

// umociTally is what came of generated layers.
type umociTally struct{ same, refused, reasoned, ours atomic.Int64 }

// TestGeneratedAgainstUmoci is T2: generated layers, unpacked over each other here and by umoci, come to the same tree, but where a layer
// contradicts itself.
//
// umoci goes by the order of entries where we, as image-spec says of whiteouts, do not. It refuses "a/b" where a is a file of the layer below,
// although the layer takes a away further on. It keeps the mode of a directory that a layer both removes and writes into, and forgets what is
// below a directory that was first another thing in its layer. And what a layer removes or replaces of the symlinks that its own names pass
// through is found by us where it lay before the layer, by umoci where it has come to lie meanwhile.
func TestGeneratedAgainstUmoci(t *testing.T) {
	rounds := torture.Times(150, 20000)
	inMemory(t)
	var n umociTally
	var wg sync.WaitGroup
	seeds := make(chan uint64)
	for range 2 {
		wg.Go(func() {
			for seed := range seeds {
				if err := n.compare(t, seed); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			}
		})
	}
	for seed := range rounds {
		seeds <- uint64(seed)
	}
	close(seeds)
	wg.Wait()
	if n.same.Load() < int64(rounds)*6/10 {
		t.Errorf("only %d of %d were unpacked by both to the same", n.same.Load(), rounds)
	}
	torture.Figure(t, "T2", "%d stacks of generated layers beside umoci: %d the same tree, %d refused here, %d refused by umoci (a file in the way that the layer takes away later, or a layer that contradicts itself), "+
		"%d different because a layer contradicts itself", rounds, n.same.Load(), n.ours.Load(), n.refused.Load(), n.reasoned.Load())
}

func (n *umociTally) compare(t *testing.T, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 2))
	top, err := os.MkdirTemp("", "umoci-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(top)
	var ixs []*Index
	var layers []built
	var said strings.Builder
	reason := false
	for range 1 + rnd.IntN(4) {
		entries := grammar(rnd)
		dir := filepath.Join(top, fmt.Sprint("ours", len(ixs)))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		lower := Stack(ixs, nil)
		ix, err := unpackTar(t, dir, lower, entries...)
		if err != nil {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		reason = reason || contradicts(lower, entries)
		said.WriteString(describe(entries) + "--\n")
		l := built{blob: rawTar(t, entries...)}
		l.Layer = layerOf(l.blob)
		l.Descriptor.MediaType = "application/vnd.oci.image.layer.v1.tar"
		ixs, layers = append(ixs, ix), append(layers, l)
	}
	if len(ixs) == 0 {
		n.ours.Add(1)
		return nil
	}
	root, err := umociImage(top, layers...)
	if err != nil {
		if !reason && !strings.Contains(err.Error(), "not a directory") {
			return fmt.Errorf("%w\n%s", err, said.String())
		}
		n.refused.Add(1)
		return nil
	}
	tree, err := OpenDirTree(root)
	if err != nil {
		return err
	}
	defer tree.Close()
	// umoci leaves the root as it made it, and gives directories that are only implied the time at which it did.
	_, ours, _ := strings.Cut(sansNotes(sansDirTimes(show(t, Stack(ixs, nil), false))), "\n")
	_, theirs, _ := strings.Cut(sansNotes(sansDirTimes(show(t, tree, false))), "\n")
	switch {
	case ours == theirs:
		n.same.Add(1)
	case reason:
		n.reasoned.Add(1)
	default:
		return fmt.Errorf("ours (-) and umoci's (+):\n%s%s", diff(ours, theirs), said.String())
	}
	return nil
}

// contradicts reports whether names of a layer pass through symlinks, are removed and written in it, or are two things.
func contradicts(lower Tree, entries []raw) bool {
	types := map[string]byte{}
	for _, e := range entries {
		name := cleanName(e.Name)
		if typ, twice := types[name]; twice && typ != e.Typeflag {
			return true
		}
		types[name] = e.Typeflag
	}
	for name := range types {
		for d := name; d != "."; d = parentOf(d) {
			_, link, _ := lowerLink(lower, d)
			_, removed := types[join(parentOf(d), whiteoutPrefix+baseOf(d))]
			if link && d != name || removed || types[d] == tar.TypeSymlink && d != name {
				return true
			}
		}
	}
	return false
}
