package plan

import (
	"path"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/containerd/platforms"
)

// checkPlatformFlag warns of a FROM --platform that says what goes without saying, or that holds for one platform only.
func (p *planner) checkPlatformFlag(def dockerfile.Stage, checks *dockerfile.Checks, flag dockerfile.Expansion) {
	if len(flag.Matched) == 1 && len(flag.Unmatched) == 0 {
		_, isTarget := flag.Matched["TARGETPLATFORM"]
		if target, _ := p.global.Get("TARGETPLATFORM"); isTarget && target == flag.Result {
			checks.RedundantTargetPlatform(def.Location, def.Platform)
		}
	}
	if len(flag.Matched)+len(flag.Unmatched) > 0 {
		return
	}
	// A stage whose name tells the platform is meant for that one.
	platform, err := platforms.Parse(flag.Result)
	if err != nil || strings.Contains(def.Name, platform.OS) || strings.Contains(def.Name, platform.Architecture) {
		return
	}
	checks.FromPlatformFlagConstDisallowed(def.Location, flag.Result)
}

// checkSecretName warns of a variable whose name says that its value should not be in an image.
func (s *stage) checkSecretName(checks *dockerfile.Checks, instruction, name string, at []dockerfile.Range) {
	words := strings.Split(strings.ToLower(name), "_")
	has := func(list ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(list, w) })
	}
	if has("apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token") &&
		!has("public", "file", "version") {
		checks.SecretsUsedInArgOrEnv(at, instruction, name)
	}
}

// checkIgnored warns of a source that .dockerignore excludes. Where a pattern re-includes files nothing can be told from names alone.
func (s *stage) checkIgnored(checks *dockerfile.Checks, at []dockerfile.Range, instruction, src string) {
	m := s.p.ignore
	if m == nil || m.Exclusions() {
		return
	}
	src = path.Clean(src)
	if src == "." || src == "/" {
		all := slices.ContainsFunc(s.p.opts.IgnorePatterns, func(pattern string) bool {
			return slices.Contains([]string{"*", "**", "**/*"}, path.Clean(strings.TrimSpace(pattern)))
		})
		if !all {
			return
		}
	}
	if ignored, err := m.MatchesOrParentMatches(src); err == nil && ignored {
		checks.CopyIgnoredFile(at, instruction, src)
	}
}
