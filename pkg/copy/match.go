package copy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
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

// matches returns the names that a source stands for, in order. A pattern may stand for none (BuildKit, AllowEmptyWildcard); a
// plain name must exist.
func (r Request) matches(s *Source) ([]match, error) {
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
		return []match{m}, err
	}
	names := []string{cleanName(src)}
	if !s.Literal {
		var err error
		if names, err = glob(s.Tree, names[0]); err != nil {
			return nil, err
		}
	}
	var ms []match
	for _, name := range names {
		m, err := followMatch(s.Tree, name)
		if err != nil {
			return nil, err
		}
		m.filter = f
		ms = append(ms, m)
	}
	return ms, nil
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

// glob returns the names that match a pattern in the order of a walk. Only directories on the way are listed: a "*" never
// matches a "/".
func glob(t layer.Tree, pattern string) ([]string, error) {
	parts := strings.Split(pattern, "/")
	n := slices.IndexFunc(parts, hasMeta)
	if n < 0 {
		return []string{unescape(t, pattern)}, nil
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("matching %q: %w", "/"+pattern, err)
	}
	base := path.Join(append([]string{"."}, parts[:n]...)...)
	root, err := layer.Resolve(t, base)
	if err != nil {
		return nil, fmt.Errorf("looking up %q: %w", "/"+base, err)
	}
	e, err := t.Lstat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound(t, base)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up %q: %w", "/"+base, err)
	}
	if e.Type != layer.Dir {
		return nil, nil
	}
	return globIn(t, root, parts[n:])
}

// unescape takes the backslashes out of a pattern without wildcards, unless there is a file whose name has them, which BuildKit
// would copy.
func unescape(t layer.Tree, pattern string) string {
	if !strings.Contains(pattern, `\`) {
		return pattern
	}
	if real, err := layer.Resolve(t, pattern); err == nil {
		if _, err := t.Lstat(real); err == nil {
			return pattern
		}
	}
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		if pattern[i] == '\\' && i+1 < len(pattern) {
			i++
		}
		b.WriteByte(pattern[i])
	}
	return cleanName(b.String())
}

func globIn(t layer.Tree, dir string, parts []string) ([]string, error) {
	children, err := t.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing %q: %w", "/"+dir, err)
	}
	var names []string
	for _, e := range children {
		if ok, _ := path.Match(parts[0], path.Base(e.Path)); !ok {
			continue
		}
		if len(parts) == 1 {
			names = append(names, path.Join(dir, path.Base(e.Path)))
			continue
		}
		if e.Type != layer.Dir {
			continue
		}
		below, err := globIn(t, e.Path, parts[1:])
		if err != nil {
			return nil, err
		}
		names = append(names, below...)
	}
	return names, nil
}

// hasMeta reports whether a pattern's component is more than a name. A backslash takes the meaning from the next byte.
func hasMeta(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
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
	children, err := w.tree.ReadDir(f.name)
	if err != nil {
		return fmt.Errorf("listing %q: %w", "/"+f.name, err)
	}
	w.above = append(w.above, pending{f, included})
	for _, e := range children {
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
