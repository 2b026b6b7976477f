// Package dockerfile reads Dockerfiles: text, heredocs, directives and checks in, stages with source ranges out. It is
// the only importer of BuildKit's parser, instructions, shell and linter packages; what the rest of the house needs
// of them is named here.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Build arguments that speak to the frontend and not to the Dockerfile.
const (
	syntaxArg = "BUILDKIT_SYNTAX"
	checkArg  = "BUILDKIT_DOCKERFILE_CHECK"
)

// Location is a place in a Dockerfile.
type Location struct {
	File string
	// First and Last are the lines of the instruction, 1-based and inclusive.
	First, Last int
}

// Warning is a finding of a check.
type Warning struct {
	Rule, Description, URL, Detail string
	Location                       Location
}

// Options say how a Dockerfile is read.
type Options struct {
	// BuildArgs are the --build-arg values. BUILDKIT_SYNTAX takes the place of the "# syntax=" line, BUILDKIT_DOCKERFILE_CHECK that of
	// the "# check=" line; the others do not matter here.
	BuildArgs map[string]string
}

// File is a Dockerfile that has been read. It is immutable and safe for concurrent use.
type File struct {
	// Name is how messages call it.
	Name string
	// Data is the text as it was read.
	Data []byte
	// Escape is the escape token, a backslash unless "# escape=" says otherwise.
	Escape rune

	ast    *parser.Node
	checks linter.Config
	found  []Warning
}

// Parse reads a Dockerfile. Errors that have a place in it are *Error. "# syntax=" and BUILDKIT_SYNTAX are answered by this package when
// they name the docker/dockerfile frontend, whatever its version, and are errors otherwise: a frontend is never fetched or run.
func Parse(name string, data []byte, opts Options) (*File, error) {
	f := &File{Name: name, Data: data}
	if len(data) == 0 {
		return nil, fmt.Errorf("reading %s: the Dockerfile cannot be empty", name)
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		line := 1 + bytes.Count(data[:i], []byte("\n"))
		return nil, f.ErrorAt(Location{First: line, Last: line}, errors.New("a Dockerfile is text, and this one has a NUL byte"))
	}
	if err := f.checkSyntax(opts.BuildArgs); err != nil {
		return nil, err
	}
	if err := f.readCheckOptions(opts.BuildArgs); err != nil {
		return nil, err
	}
	res, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, f.located(err)
	}
	f.ast, f.Escape = res.AST, res.EscapeToken

	c := f.Checks()
	for _, w := range res.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL {
			c.run(&linter.RuleNoEmptyContinuation, []Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
		}
	}
	stages, _, err := instructions.Parse(f.ast, c.lint)
	if err != nil {
		err = f.located(err)
		var placed *Error
		if errors.As(err, &placed) {
			placed.Warnings = c.Warnings()
		}
		return nil, err
	}
	c.stageNames(stages)
	c.casing(stages)
	f.found = *c.found
	return f, nil
}

// Stages returns the stages of the file and the ARGs before the first of them. The instructions are the caller's own: expanding them
// changes no other's. A file may have no stage, and then cannot be planned.
func (f *File) Stages() ([]Stage, []ArgCommand, error) {
	// BuildKit's parser of instructions wants a linter, and says the same again.
	stages, meta, err := instructions.Parse(f.ast, linter.New(&linter.Config{}))
	if err != nil {
		return nil, nil, f.located(err)
	}
	return stages, meta, nil
}

// LocationOf is the place of an instruction's ranges.
func (f *File) LocationOf(ranges []Range) Location {
	loc := Location{File: f.Name}
	for i, r := range ranges {
		first, last := r.Start.Line, max(r.Start.Line, r.End.Line)
		if i == 0 || first < loc.First {
			loc.First = first
		}
		loc.Last = max(loc.Last, last)
	}
	return loc
}
