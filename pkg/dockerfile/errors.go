package dockerfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Error is what is wrong at a place in a Dockerfile.
type Error struct {
	// Location is the instruction; its lines are 0 where the error belongs to the whole file.
	Location Location
	// Source are the lines around it, the first of them being line SourceFirst.
	Source      []string
	SourceFirst int
	Err         error
	// Hint is what may help, "" if nothing is known.
	Hint string
	// Warnings are what the checks found before a file proved to be unreadable.
	Warnings []Warning
}

// Error is one line: the place, what is wrong and the hint.
func (e *Error) Error() string {
	text := e.Err.Error()
	// BuildKit's parser names the line itself, in words that other tools look for.
	if !strings.HasPrefix(text, "dockerfile parse error on line") {
		text = e.place() + ": " + text
	}
	return hint.Text(text, e.Hint)
}

// Unwrap returns what is wrong, without the place.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) place() string {
	if e.Location.First == 0 {
		return e.Location.File
	}
	return fmt.Sprintf("%s:%d", e.Location.File, e.Location.First)
}

// Excerpt renders the lines around the error with those of the instruction marked, for a terminal. It is "" where there is no place.
func (e *Error) Excerpt() string {
	if len(e.Source) == 0 {
		return ""
	}
	const rule = "--------------------\n"
	var b strings.Builder
	b.WriteString(e.place() + "\n" + rule)
	for i, line := range e.Source {
		n, mark := e.SourceFirst+i, "   "
		if e.Location.First <= n && n <= e.Location.Last {
			mark = ">>>"
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", n, mark, line)
	}
	b.WriteString(rule)
	return b.String()
}

// ErrorAt gives an error its place, and takes its hint out of its text. An error that has one already keeps it; nil stays nil.
func (f *File) ErrorAt(loc Location, err error) error {
	if err == nil {
		return nil
	}
	var placed *Error
	if errors.As(err, &placed) {
		return err
	}
	e := &Error{Location: loc, Err: err}
	e.Location.File = f.Name
	e.Source, e.SourceFirst = f.excerpt(loc)
	if _, h := hint.Of(err); h != "" {
		e.Hint = h
		e.Err = withoutHint{err, hint.Text("", h)}
	} else if text, match, ok := strings.Cut(err.Error(), " (did you mean "); ok && strings.HasSuffix(match, "?)") {
		e.Hint = "did you mean " + strings.TrimSuffix(match, ")")
		e.Err = withoutHint{err, err.Error()[len(text):]}
	}
	return e
}

// withoutHint prints an error without the hint, which is kept apart.
type withoutHint struct {
	error
	hint string
}

func (w withoutHint) Error() string { return strings.Replace(w.error.Error(), w.hint, "", 1) }
func (w withoutHint) Unwrap() error { return w.error }

// excerpt returns the lines of a location and those near it.
func (f *File) excerpt(loc Location) ([]string, int) {
	lines := strings.Split(string(f.Data), "\n")
	if loc.First < 1 || loc.First > len(lines) {
		return nil, 0
	}
	near := 1
	if loc.First == loc.Last {
		near = 2
	}
	first, last := max(1, loc.First-near), min(len(lines), max(loc.First, loc.Last)+near)
	out := make([]string, 0, last-first+1)
	for _, l := range lines[first-1 : last] {
		out = append(out, strings.TrimSuffix(l, "\r"))
	}
	return out, first
}

// line is a line of the file, counted from 1; "" where there is none.
func (f *File) line(n int) string {
	lines := strings.Split(string(f.Data), "\n")
	if n < 1 || n > len(lines) {
		return ""
	}
	return lines[n-1]
}

// located turns an error of BuildKit's parsers into an *Error.
func (f *File) located(err error) error {
	var at *parser.LocationError
	if !errors.As(err, &at) || len(at.Locations) == 0 {
		return f.ErrorAt(Location{}, err)
	}
	loc := f.LocationOf(at.Locations[0])
	return f.ErrorAt(loc, flagHint(f.line(loc.First), err))
}

// unlocated removes the place from an error of BuildKit's parsers, for text that is not in the file.
func unlocated(err error) error {
	var at *parser.LocationError
	if errors.As(err, &at) {
		return at.Unwrap()
	}
	return err
}
