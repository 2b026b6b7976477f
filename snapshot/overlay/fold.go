package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cairn-build/cairn/pkg/layer"
)

// Every directory of a mount costs a look-up for every name that is not in the ones above it, and the kernel takes 999 of them. So layers
// of a long chain are folded: a number of neighbours that are small become one directory that shows the same. It is kept as a snapshot under a
// name of its own, and can be dropped and made again like any other.
const (
	// foldLayers is how many neighbours become one. With 32, a step over 1,000 layers mounts 31 folded directories and less than 32 others.
	foldLayers = 32
	// foldFew is how many are worth it where a large layer follows, which is never copied into a fold if that can be avoided.
	foldFew = 8
	// foldEntries and foldBytes are the most that a small layer has of entries and of files' content.
	foldEntries = 1000
	foldBytes   = 4 << 20
	// foldAim is how many directories a mount may have before larger layers are folded too.
	foldAim = 400
)

// segment is neighbouring layers of a chain that are one directory in a mount: the layers from first to before end.
type segment struct{ first, end int }

// segments divides a chain. What it says of the first layers does not depend on those above, so that the folds of one step are those of the next.
func (l *roLayer) segments() []segment {
	for scale := int64(1); ; scale *= 16 {
		s := l.divide(l.s.opts.Fold, scale)
		if len(s) <= foldAim || scale > 1<<40 {
			return s
		}
	}
}

func (l *roLayer) divide(most int, scale int64) []segment {
	var out []segment
	first := 0 // of the small layers since the last segment
	flush := func(end, least int) {
		if end-first >= least {
			out = append(out, segment{first, end})
		} else {
			for i := first; i < end; i++ {
				out = append(out, segment{i, i + 1})
			}
		}
		first = end
	}
	for i, ix := range l.indexes {
		switch {
		case !small(ix, scale):
			flush(i, min(foldFew, most))
			flush(i+1, 1)
		case i+1-first == most:
			flush(i+1, most)
		}
	}
	flush(len(l.indexes), most)
	return out
}

// small reports whether a layer may be copied into a fold.
func small(ix *layer.Index, scale int64) bool {
	return int64(ix.Len()) <= foldEntries*scale && ix.Size() <= foldBytes*scale
}

// lowers returns the directories to mount, bottom first, folding what is not folded yet.
func (l *roLayer) lowers() ([]string, error) {
	segs := l.segments()
	if len(segs) == len(l.dirs) {
		return slices.Clone(l.dirs), nil
	}
	var out []string
	for _, seg := range segs {
		dir := l.dirs[seg.first]
		if seg.end-seg.first > 1 {
			var err error
			if dir, err = l.folded(seg, l.s.snapshotID(l.chainIDs[seg.end-1]), out); err != nil {
				return nil, fmt.Errorf("folding layers %d to %d: %w", seg.first+1, seg.end, err)
			}
		}
		out = append(out, dir)
	}
	return out, nil
}

// folded returns the directory that shows what the layers of a segment do, whose last is known by id, over the directories below.
func (l *roLayer) folded(seg segment, id digest.Digest, below []string) (dir string, err error) {
	st := l.s.opts.Store
	// What a fold holds depends on the layers below too: it hides only what they have.
	name := digest.FromString(fmt.Sprintf("the last %d layers of %s", seg.end-seg.first, id))
	if dir, err = st.Snapshot(name); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	tmp, err := st.NewSnapshot()
	if err != nil {
		return "", err
	}
	if err := merge(tmp, topFirst(l.dirs[seg.first:seg.end]), topFirst(below)); err != nil {
		return "", errors.Join(err, st.RemoveTemp(tmp))
	}
	return st.CommitSnapshot(name, tmp)
}

func topFirst(dirs []string) []string {
	out := slices.Clone(dirs)
	slices.Reverse(out)
	return out
}
