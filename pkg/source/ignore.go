package source

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// maxIgnoreFile bounds a .dockerignore, in bytes.
const maxIgnoreFile = 1 << 20

// Ignore is a compiled .dockerignore. It is immutable and safe for concurrent use.
//
// The last pattern that matches a path or a directory above it decides, as the documentation of .dockerignore says. What one
// pattern means is left to patternmatcher; which patterns have to be asked about a path is found by the literal text that every
// match begins or ends with, so that thousands of patterns do not have to be tried on every path.
type Ignore struct {
	name     string
	lines    []string // as written, for those that want to match for themselves
	patterns []ignorePattern
	exact    map[string]int // path → highest pattern that is this path
	heads    buckets        // literal beginning → patterns, highest first
	tails    buckets
	rest     []int // patterns with neither, highest first
	// excepts are the literal beginnings of the patterns that include again; hasExcept says there are any.
	excepts   []except
	hasExcept bool
}

type ignorePattern struct {
	except bool
	match  *patternmatcher.PatternMatcher // of this pattern alone, without its "!"
}

type except struct {
	head  string
	exact bool
}

// ParseIgnore compiles the lines of an ignore file; name is for messages.
func ParseIgnore(data []byte, name string) (*Ignore, error) {
	if len(data) > maxIgnoreFile {
		return nil, fmt.Errorf("reading %s: %d bytes are more than the %d allowed", name, len(data), maxIgnoreFile)
	}
	lines, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	ig := &Ignore{name: name, lines: lines, exact: map[string]int{}}
	var heads, tails []string
	for _, line := range lines {
		pm, err := patternmatcher.New([]string{line})
		if err != nil {
			return nil, fmt.Errorf("reading %s: pattern %q: %w", name, line, err)
		}
		for _, p := range pm.Patterns() {
			h, t, err := ig.add(p.String(), p.Exclusion())
			if err != nil {
				return nil, fmt.Errorf("reading %s: pattern %q: %w", name, line, err)
			}
			heads, tails = append(heads, h), append(tails, t)
		}
	}
	ig.index(heads, tails)
	return ig, nil
}

// add compiles one clean pattern and returns the literal text its matches begin and end with.
func (ig *Ignore) add(p string, isExcept bool) (head, tail string, err error) {
	m, err := patternmatcher.New([]string{plainPattern(p)})
	if err != nil {
		return "", "", err
	}
	// Patterns are compiled by their first use, which must not be by two goroutines at once; it also says what is wrong with them.
	if _, err := m.MatchesOrParentMatches("x"); err != nil {
		return "", "", err
	}
	n := len(ig.patterns)
	ig.patterns = append(ig.patterns, ignorePattern{isExcept, m})
	head, tail, exact := literals(p)
	if exact {
		ig.exact[p] = n
	}
	if isExcept {
		ig.hasExcept = true
		ig.excepts = append(ig.excepts, except{head, exact})
	}
	return head, tail, nil
}

// plainPattern keeps a pattern that begins with "!" after its own "!" was taken off from being read as an exception again.
func plainPattern(p string) string {
	if strings.HasPrefix(p, "!") {
		return `\` + p
	}
	return p
}

// maxLiteral is how much of a literal is looked at, which bounds the number of different lengths.
const maxLiteral = 24

// literals returns what every path that p matches begins with and ends with; exact is set when p matches just the path it is.
func literals(p string) (head, tail string, exact bool) {
	// What is not UTF-8 is U+FFFD to the matcher, in patterns as in paths, so that it matches other bytes than itself.
	special := func(r rune) bool { return strings.ContainsRune(`*?[]\^`, r) || r == utf8.RuneError }
	first, last := strings.IndexFunc(p, special), strings.LastIndexFunc(p, special)
	if first < 0 {
		return p, p, true
	}
	if strings.ContainsAny(p, "|{}") { // beside a wildcard the matcher leaves them the meaning they have in regular expressions
		return "", "", false
	}
	r, size := utf8.DecodeRuneInString(p[last:])
	head, tail = p[:first], p[last+size:]
	switch {
	case r == utf8.RuneError:
	case p[last] == '\\' && len(tail) > 0 && isAlphanumeric(tail[0]):
		tail = "" // a class or a character by its number to the matcher, which may take in what follows: \d, \00, \pN
	case p[last] == '\\' && len(tail) > 0:
		tail = tail[1:]
		for len(tail) > 0 && tail[0]&0xc0 == 0x80 { // the rest of the character that was escaped
			tail = tail[1:]
		}
	case last > 0 && p[last-1] == '*' && p[last] == '*':
		tail = strings.TrimPrefix(tail, "/") // "**/" matches nothing at all as well
	}
	return clip(head, true), clip(tail, false), false
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func clip(s string, head bool) string {
	if len(s) <= maxLiteral {
		return s
	}
	if head {
		return s[:maxLiteral]
	}
	return s[len(s)-maxLiteral:]
}

// buckets maps literals to the patterns they belong to, by length.
type buckets struct {
	lengths []int
	of      map[string][]int
}

func (b *buckets) add(literal string, n int) {
	if b.of == nil {
		b.of = map[string][]int{}
	}
	if !slices.Contains(b.lengths, len(literal)) {
		b.lengths = append(b.lengths, len(literal))
	}
	b.of[literal] = append(b.of[literal], n)
}

// index files every pattern under the literal that fewer patterns share.
func (ig *Ignore) index(heads, tails []string) {
	nh, nt := map[string]int{}, map[string]int{}
	for i := range heads {
		nh[heads[i]]++
		nt[tails[i]]++
	}
	for i := len(heads) - 1; i >= 0; i-- {
		h, t := heads[i], tails[i]
		switch {
		case h == "" && t == "":
			ig.rest = append(ig.rest, i)
		case h != "" && (t == "" || nh[h] <= nt[t]):
			ig.heads.add(h, i)
		default:
			ig.tails.add(t, i)
		}
	}
}

// none is the verdict where no pattern matched.
const none = -1

// decide returns the number of the pattern that decides about a path, given the one that decides about its parent.
func (ig *Ignore) decide(name string, parent int) int {
	best := parent
	if n, ok := ig.exact[name]; ok {
		best = max(best, n)
	}
	for _, l := range ig.heads.lengths {
		if l <= len(name) {
			best = ig.highest(name, ig.heads.of[name[:l]], best)
		}
	}
	for _, l := range ig.tails.lengths {
		if l <= len(name) {
			best = ig.highest(name, ig.tails.of[name[len(name)-l:]], best)
		}
	}
	return ig.highest(name, ig.rest, best)
}

// highest returns the highest pattern of the list that matches the path, if it is higher than best.
func (ig *Ignore) highest(name string, list []int, best int) int {
	for _, n := range list {
		if n <= best {
			return best
		}
		ok, _ := ig.patterns[n].match.MatchesUsingParentResult(name, false) //nolint:staticcheck // one pattern, one path: it is right
		if ok {
			return n
		}
	}
	return best
}

// ignores reports what a verdict means.
func (ig *Ignore) ignores(verdict int) bool { return verdict != none && !ig.patterns[verdict].except }

// Match reports whether a path (slash-separated, relative, clean) is ignored.
func (ig *Ignore) Match(name string) bool {
	if ig == nil || name == "." {
		return false
	}
	return ig.ignores(ig.verdict(name))
}

func (ig *Ignore) verdict(name string) int {
	if name == "." {
		return none
	}
	return ig.decide(name, ig.verdict(path.Dir(name)))
}

// mayInclude reports whether something below an ignored directory may be included again.
func (ig *Ignore) mayInclude(dir string) bool {
	dir += "/"
	for _, e := range ig.excepts {
		if strings.HasPrefix(e.head, dir) || !e.exact && strings.HasPrefix(dir, e.head) {
			return true
		}
	}
	return false
}
