package copy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/moby/patternmatcher"
)

// NotFoundError says that a source names nothing.
type NotFoundError struct {
	// Path is absolute in the source's tree.
	Path string
	// Hint is a sentence without a full stop, or empty.
	Hint string
}

func (e *NotFoundError) Error() string {
	return hint.Text(fmt.Sprintf("%q: not found", e.Path), e.Hint)
}

// Is makes it an fs.ErrNotExist.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// match is one name of a source that will be copied.
type match struct {
	tree layer.Tree
	// name is as it was matched, real what it is when symlinks are followed, entry that of real.
	name, real string
	entry      layer.Entry
	filter     filter
}

// shown is the name for messages.
func (m match) shown() string { return "/" + m.name }

// fewMatches is how many matches are kept; where there are more they are looked up again.
const fewMatches = 1024

// matches are the names that a source stands for, in order.
type matches struct {
	n   int
	few []match // nil for many
	// look finds them, all over again.
	look func(fn func(match) error) error
}

func (ms *matches) each(fn func(match) error) error {
	if ms.n > fewMatches {
		return ms.look(fn)
	}
	return eachOf(ms.few, fn)
}

func eachOf[T any](all []T, fn func(T) error) error {
	for _, v := range all {
		if err := fn(v); err != nil {
			return err
		}
	}
	return nil
}

// matches returns the names that a source stands for. A pattern may stand for none (BuildKit, AllowEmptyWildcard); a plain name must
// exist.
func (r Request) matches(s *Source) (*matches, error) {
	var f filter
	src := s.Path
	if r.Parents && !s.Plain {
		var err error
		if src, err = f.parents(s.Tree, src); err != nil {
			return nil, err
		}
	}
	if err := f.excluding(r.Exclude); err != nil {
		return nil, err
	}
	if s.Plain {
		m, err := plainMatch(s.Tree, cleanName(src))
		m.filter = f
		return &matches{n: 1, few: []match{m}}, err
	}
	names := func(fn func(string) error) error { return glob(s.Tree, cleanName(src), fn) }
	if s.Literal {
		names = func(fn func(string) error) error { return fn(cleanName(src)) }
	}
	ms := &matches{}
	// A pattern that cannot be matched is an error before a name that is not there.
	var few []string
	err := names(func(name string) error {
		if ms.n++; ms.n <= fewMatches {
			few = append(few, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if ms.n <= fewMatches {
		names = func(fn func(string) error) error { return eachOf(few, fn) }
	}
	ms.look = func(fn func(match) error) error {
		return names(func(name string) error {
			m, err := followMatch(s.Tree, name)
			if err != nil {
				return err
			}
			m.filter = f
			return fn(m)
		})
	}
	err = ms.look(func(m match) error {
		if ms.n <= fewMatches {
			ms.few = append(ms.few, m)
		}
		return nil
	})
	return ms, err
}

func followMatch(t layer.Tree, name string) (match, error) {
	real, err := layer.Resolve(t, name)
	if err != nil {
		return match{}, fmt.Errorf("looking up %q: %w", "/"+name, err)
	}
	return lstatMatch(t, name, real)
}

// plainMatch does not follow the last component.
func plainMatch(t layer.Tree, name string) (match, error) {
	real, err := layer.ResolveParent(t, name)
	if err != nil {
		return match{}, fmt.Errorf("looking up %q: %w", "/"+name, err)
	}
	return lstatMatch(t, name, real)
}

func lstatMatch(t layer.Tree, name, real string) (match, error) {
	e, err := t.Lstat(real)
	if errors.Is(err, fs.ErrNotExist) {
		return match{}, notFound(t, name)
	}
	if err != nil {
		return match{}, fmt.Errorf("looking up %q: %w", "/"+name, err)
	}
	return match{tree: t, name: name, real: real, entry: e}, nil
}

// filter says what of a matched directory is copied.
type filter struct {
	include, exclude *patternmatcher.PatternMatcher
	// literal are the leading components of the include pattern that are plain names: nothing else needs to be looked at.
	literal []string
}

// parents sets the filter up for --parents: the source is a directory and a pattern below it, divided by the first "/./". It
// returns the directory. Without wildcards what is named must exist.
func (f *filter) parents(t layer.Tree, src string) (string, error) {
	dir, pattern, ok := strings.Cut(src, "/./")
	if !ok {
		dir, pattern = "/", src
	}
	pattern = cleanName(pattern)
	if !hasMeta(dir) && !hasMeta(pattern) {
		if err := f.required(t, cleanName(dir), pattern); err != nil {
			return "", err
		}
	}
	if pattern == "." {
		return dir, nil
	}
	var err error
	if f.include, err = patternmatcher.New([]string{pattern}); err != nil {
		return "", fmt.Errorf("reading the pattern %q: %w", pattern, err)
	}
	if trimmed := strings.TrimSpace(pattern); !strings.HasPrefix(trimmed, "!") {
		for _, c := range strings.Split(trimmed, "/") {
			if hasMeta(c) || strings.Contains(c, "\\") {
				break
			}
			f.literal = append(f.literal, c)
		}
	}
	return dir, nil
}

// required looks a name up as the walk of --parents will meet it: symlinks are followed up to the pivot and not after it.
func (f *filter) required(t layer.Tree, dir, pattern string) error {
	real, err := layer.Resolve(t, dir)
	if err != nil {
		return fmt.Errorf("looking up %q: %w", "/"+dir, err)
	}
	_, err = t.Lstat(path.Join(real, pattern))
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(t, path.Join(dir, pattern))
	}
	return err
}

func (f *filter) excluding(patterns []string) error {
	if len(patterns) == 0 {
		return nil
	}
	var err error
	if f.exclude, err = patternmatcher.New(patterns); err != nil {
		return fmt.Errorf("reading the --exclude patterns %q: %w", patterns, err)
	}
	return nil
}

// leads reports whether something to include may be at or below rel.
func (f *filter) leads(rel string) bool {
	for i, c := range strings.Split(rel, "/") {
		if i >= len(f.literal) {
			return true
		}
		if c != f.literal[i] {
			return false
		}
	}
	return true
}

// found is one name met on a walk, to be copied.
type found struct {
	// rel is relative to the match, "" for the match itself; name is the name in the tree.
	rel, name string
	entry     layer.Entry
	// late says that the filter does not select the directory itself, only something below it.
	late bool
}

// walker walks one match.
type walker struct {
	match
	fn func(found) error
	// above are the directories on the way down; those not selected are reported when something below them is.
	above []pending
}

type pending struct {
	found
	done bool
}

// walk calls fn for the match and all that is below it and selected by the filter, directories before what they contain.
func (m match) walk(ctx context.Context, fn func(found) error) error {
	w := &walker{match: m, fn: fn}
	var zero patternmatcher.MatchInfo
	e := m.entry
	return w.visit(ctx, found{name: m.real, entry: e}, zero, zero)
}

func (w *walker) visit(ctx context.Context, f found, inc, exc patternmatcher.MatchInfo) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	included, excluded := true, false
	if f.rel != "" {
		var err error
		if w.filter.include != nil {
			if included, inc, err = w.filter.include.MatchesUsingParentResults(f.rel, inc); err != nil {
				return fmt.Errorf("matching %q: %w", f.rel, err)
			}
		}
		if w.filter.exclude != nil {
			if excluded, exc, err = w.filter.exclude.MatchesUsingParentResults(f.rel, exc); err != nil {
				return fmt.Errorf("matching %q: %w", f.rel, err)
			}
			included = included && !excluded
		}
	}
	if included {
		if err := w.reportAbove(); err != nil {
			return err
		}
		if err := w.fn(f); err != nil {
			return err
		}
	}
	if f.entry.Type != layer.Dir || excluded && !w.filter.exclude.Exclusions() {
		return nil
	}
	w.above = append(w.above, pending{f, included})
	for e, err := range w.tree.ReadDir(f.name) {
		if err != nil {
			return fmt.Errorf("listing %q: %w", "/"+f.name, err)
		}
		child := found{rel: path.Join(f.rel, path.Base(e.Path)), name: e.Path, entry: e}
		if !w.filter.leads(child.rel) {
			continue
		}
		if err := w.visit(ctx, child, inc, exc); err != nil {
			return err
		}
	}
	w.above = w.above[:len(w.above)-1]
	return nil
}

func (w *walker) reportAbove() error {
	for i := range w.above {
		p := &w.above[i]
		if p.done {
			continue
		}
		p.done = true
		p.late = true
		if err := w.fn(p.found); err != nil {
			return err
		}
	}
	return nil
}
