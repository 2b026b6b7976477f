package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Stack returns the Tree that layers make, bottom first: whiteouts and opaque directories of the upper hide what is below.
// Content is fetched through open, which gets the number of the layer and the path in it; files that the index itself holds
// (etc/passwd, etc/group) never need it.
//
// A directory that no layer has an entry for belongs to root, with mode 0755 and time 0. Entries whose parent is a symlink
// in a layer below land where the link points, and that is the path open gets: the one at which Unpack puts the file. The
// path of a hard link is that of the File it names. The tree is safe for concurrent use.
func Stack(ixs []*Index, open OpenFunc) Tree {
	s := &stack{open: open, dirs: map[string]*dirState{}, ixs: make([]*Index, 0, len(ixs))}
	for n, ix := range ixs {
		if n > 0 && len(ix.implicit) > 0 {
			landed, err := land(ix, &stack{dirs: map[string]*dirState{}, ixs: s.ixs})
			if err != nil && s.err == nil {
				s.err = fmt.Errorf("stacking layer %d: %w", n, err)
			}
			ix = landed
		}
		s.ixs = append(s.ixs, ix)
	}
	return s
}

type stack struct {
	ixs  []*Index
	open OpenFunc
	// err is that of layers which cannot be stacked; every question is answered with it.
	err error

	mu   sync.Mutex
	dirs map[string]*dirState
}

// dirState is what is known of one directory: its entry, and where its layers have what is below it, top first. nil is no
// directory.
type dirState struct {
	entry Entry
	parts []part
}

// part is some of the entries of a layer.
type part struct {
	layer   int
	entries span
}

// found is what a path is in a stack: an entry of a layer, and if it is a directory what is below.
type found struct {
	entry Entry
	layer int
	parts []part
}

func defaultDir(name string) Entry {
	return Entry{Path: name, Type: Dir, Mode: 0o755, ModTime: time.Unix(0, 0).UTC()}
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// directory returns nil for what is no directory.
func (s *stack) directory(name string) (*dirState, error) {
	s.mu.Lock()
	d, ok := s.dirs[name]
	s.mu.Unlock()
	if ok {
		return d, nil
	}
	if name == "." {
		d = s.root()
		if err := s.unreadable(); err != nil {
			return nil, err
		}
	} else if parent, err := s.directory(parentOf(name)); err != nil {
		return nil, err
	} else if parent != nil {
		f, ok, err := s.child(parent, name)
		if err != nil {
			return nil, err
		}
		if ok && f.entry.Type == Dir {
			d = &dirState{entry: f.entry, parts: f.parts}
		}
	}
	s.mu.Lock()
	s.dirs[name] = d
	s.mu.Unlock()
	return d, nil
}

// unreadable is why an index cannot be read, and nil otherwise.
func (s *stack) unreadable() error {
	for _, ix := range s.ixs {
		if err := ix.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stack) root() *dirState {
	d := &dirState{entry: defaultDir(".")}
	described, hidden := false, false
	for n := len(s.ixs) - 1; n >= 0; n-- {
		all, opaque := s.ixs[n].list.all(), false
		if all.len() > 0 && all.at(0).Path == "." {
			e := all.at(0)
			all, opaque = all.from(1), e.Opaque
			if e.Type == Dir && !described {
				d.entry, described = *e, true
			}
		}
		if !hidden {
			d.parts = append(d.parts, part{n, all})
		}
		hidden = hidden || opaque
	}
	d.entry.Opaque = false
	return d
}

// child looks the path name up in its parent directory, from the top layer down. f grows until a layer hides all below it.
func (s *stack) child(parent *dirState, name string) (f found, ok bool, err error) {
	described := false // f.entry is of a layer
	hidden := false    // only the description of the directory still counts, not what it holds
	for _, p := range parent.parts {
		i, own := p.entries.find(name)
		rest := p.entries.from(i)
		e := &Entry{Type: Dir} // implied
		if own {
			e, rest = rest.at(0), rest.from(1)
		}
		under := rest.to(rest.endBelow(name))
		full := under.any()
		// What cannot be read of an index looks as if it were not there.
		if err := p.entries.l.Err(); err != nil {
			return found{}, false, err
		}
		if !own && under.len() == 0 {
			continue
		}
		if e.Type == Dir {
			ok = ok || own || full
			if own && !described {
				f.entry, f.layer, described = *e, p.layer, true
			}
			if under.len() > 0 && !hidden {
				f.parts = append(f.parts, part{p.layer, under})
			}
			if own && (described && hidden || e.Opaque) {
				break
			}
			continue
		}
		if e.Type == Whiteout {
			ok = ok || full
			if under.len() > 0 && !hidden {
				f.parts = append(f.parts, part{p.layer, under})
			}
			if hidden = e.Opaque; hidden && !described {
				continue
			}
			break
		}
		if !ok {
			return found{entry: *e, layer: p.layer}, true, nil
		}
		break
	}
	if !ok {
		return found{}, false, nil
	}
	if !described {
		f.entry = defaultDir(name)
	}
	f.entry.Opaque = false
	return f, true, nil
}

// lookup returns what is at name; a Hardlink is followed to its File.
func (s *stack) lookup(op, name string) (found, error) {
	if s.err != nil {
		return found{}, s.err
	}
	if !isClean(name) {
		return found{}, notExist(op, name)
	}
	if name == "." {
		d, err := s.directory(".")
		if err != nil {
			return found{}, err
		}
		return found{entry: d.entry, parts: d.parts}, nil
	}
	parent, err := s.directory(parentOf(name))
	if err != nil {
		return found{}, err
	}
	if parent == nil {
		return found{}, notExist(op, name)
	}
	f, ok, err := s.child(parent, name)
	if err != nil {
		return found{}, err
	}
	if !ok {
		return found{}, notExist(op, name)
	}
	if f.entry.Type != Hardlink {
		return f, nil
	}
	e, ok := s.ixs[f.layer].Lookup(f.entry.Linkname)
	if err := s.ixs[f.layer].Err(); err != nil {
		return found{}, err
	}
	if !ok || e.Type == Hardlink || e.Type == Dir || e.Type == Whiteout {
		return found{}, fmt.Errorf("hard link %q to %q: %w", name, f.entry.Linkname, fs.ErrInvalid)
	}
	f.entry = e
	return f, nil
}

func (s *stack) Lstat(name string) (Entry, error) {
	f, err := s.lookup("lstat", name)
	f.entry.Path = name
	return f.entry, err
}

func (s *stack) ReadDir(name string) iter.Seq2[Entry, error] {
	f, err := s.lookup("readdir", name)
	if err == nil && f.entry.Type != Dir {
		err = &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	if err != nil {
		return Unreadable(err)
	}
	return func(yield func(Entry, error) bool) {
		for child := range names(name, f.parts) {
			e, err := s.Lstat(child)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
		if err := s.unreadable(); err != nil {
			yield(Entry{}, err)
		}
	}
}

// names yields the paths of all that the layers have directly in a directory, whiteouts included, sorted.
func names(dir string, parts []part) iter.Seq[string] {
	skip := len(dir) + 1
	if dir == "." {
		skip = 0
	}
	return func(yield func(string) bool) {
		var heads []head
		for _, p := range parts {
			heads = appendHead(heads, p.entries, skip)
		}
		for len(heads) > 0 {
			first := slices.MinFunc(heads, func(a, b head) int { return strings.Compare(a.child, b.child) }).child
			if !yield(first) {
				return
			}
			next := heads[:0]
			for _, h := range heads {
				if h.child != first {
					next = append(next, h)
					continue
				}
				if h.rest.path(0) == first {
					h.rest = h.rest.from(1)
				}
				next = appendHead(next, h.rest.from(h.rest.endBelow(first)), skip)
			}
			heads = next
		}
	}
}

// head is what is left of a part, and the name in the directory with which it begins.
type head struct {
	child string
	rest  span
}

// appendHead appends what is left, if anything is.
func appendHead(heads []head, rest span, skip int) []head {
	if rest.len() == 0 {
		return heads
	}
	child := rest.path(0)
	if len(child) <= skip {
		return heads // the list cannot be read, and will tell
	}
	if i := strings.IndexByte(child[skip:], '/'); i >= 0 {
		child = child[:skip+i]
	}
	return append(heads, head{child, rest})
}

func (s *stack) Open(name string) (io.ReadCloser, error) {
	f, err := s.file("open", name)
	if err != nil {
		return nil, err
	}
	if content, ok := s.ixs[f.layer].names[f.entry.Path]; ok {
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	if s.open == nil {
		return nil, fmt.Errorf("opening %q: the content of the layers is not at hand", name)
	}
	return s.open(f.layer, f.entry.Path)
}

func (s *stack) file(op, name string) (found, error) {
	f, err := s.lookup(op, name)
	if err == nil && f.entry.Type != File {
		err = &fs.PathError{Op: op, Path: name, Err: errors.New("not a regular file")}
	}
	return f, err
}

func (s *stack) Digest(ctx context.Context, name string) (digest.Digest, error) {
	f, err := s.file("digest", name)
	if err != nil || f.entry.Sum != (Sum{}) {
		return f.entry.Sum.Digest(), err
	}
	r, err := s.Open(name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return digest.Canonical.FromReader(Until(ctx, r))
}

// LinkID counts only names that can be seen: one whose fellows were removed or replaced by a layer above has no links left.
func (s *stack) LinkID(name string) (string, error) {
	f, err := s.lookup("linkid", name)
	if err != nil || f.entry.Type == Dir {
		return "", err
	}
	for _, other := range s.ixs[f.layer].groups[f.entry.Path] {
		if other == name {
			continue
		}
		o, err := s.lookup("linkid", other)
		if err == nil && o.layer == f.layer && o.entry.Path == f.entry.Path {
			return strconv.Itoa(f.layer) + ":" + f.entry.Path, nil
		}
	}
	return "", nil
}
