package dockerfile

import (
	"fmt"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// checkSyntax refuses Dockerfiles that are written for another frontend than the one this package is.
func (f *File) checkSyntax(args map[string]string) error {
	if v, ok := args[syntaxArg]; ok && strings.TrimSpace(v) != "" {
		ref, _, _ := strings.Cut(strings.TrimSpace(v), " ")
		if !servedFrontend(ref) {
			return hint.With(fmt.Errorf("build argument %s names the frontend %s, and frontends are not run", syntaxArg, ref), syntaxHint())
		}
		return nil
	}
	ref, _, ranges, ok := parser.DetectSyntax(f.Data)
	if !ok || servedFrontend(ref) {
		return nil
	}
	loc := f.LocationOf(ranges)
	if loc.First == 0 { // the JSON form has no line of its own
		loc.First, loc.Last = 1, 1
	}
	return f.ErrorAt(loc, hint.With(fmt.Errorf("unsupported syntax %s: frontends are not run", ref), syntaxHint()))
}

func syntaxHint() string { return "only docker/dockerfile, of any version, is supported" }

// servedFrontend reports whether a frontend is docker/dockerfile or its upstream, of whatever version, from Docker Hub or from what mirrors
// it ("mirror.gcr.io/docker/dockerfile", "registry.corp/hub/docker/dockerfile"): this package reads all they read.
func servedFrontend(ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	name := "/" + named.Name()
	return strings.HasSuffix(name, "/docker/dockerfile") || strings.HasSuffix(name, "/docker/dockerfile-upstream")
}

// readCheckOptions takes the options of the checks from the build argument or else from the "# check=" line.
func (f *File) readCheckOptions(args map[string]string) error {
	if v, ok := args[checkArg]; ok {
		cfg, err := linter.ParseLintOptions(v)
		if err != nil {
			return fmt.Errorf("parsing build argument %s: %w", checkArg, err)
		}
		f.checks = *cfg
		return nil
	}
	v, _, ranges, _ := parser.ParseDirective("check", f.Data)
	cfg, err := linter.ParseLintOptions(v)
	if err != nil {
		return f.ErrorAt(f.LocationOf(ranges), fmt.Errorf("parsing check options: %w", err))
	}
	f.checks = *cfg
	return nil
}
