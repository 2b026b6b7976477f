package dockerfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/util/suggest"
)

// Checks collects what the lint rules find in one reading of a Dockerfile: names and wordings are BuildKit's
// (https://docs.docker.com/reference/build-checks/). It is not safe for concurrent use.
type Checks struct {
	file  *File
	lint  *linter.Linter
	found *[]Warning
}

// Checks starts a collection with what parsing the file found.
func (f *File) Checks() *Checks {
	found := slices.Clone(f.found)
	c := &Checks{file: f, found: &found}
	cfg := f.checks
	cfg.Warn = func(rule, description, url, detail string, at []Range) {
		*c.found = append(*c.found, Warning{
			Rule: rule, Description: description, URL: url, Detail: detail, Location: f.LocationOf(at),
		})
	}
	c.lint = linter.New(&cfg)
	return c
}

// With returns the checks as the "# check=" comment above an instruction wants them; what they find is collected together.
func (c *Checks) With(comments []string) *Checks {
	return &Checks{file: c.file, lint: c.lint.WithMergedConfigFromComments(comments), found: c.found}
}

// Warnings are the findings so far in the order of lines.
func (c *Checks) Warnings() []Warning {
	out := slices.Clone(*c.found)
	slices.SortStableFunc(out, func(a, b Warning) int { return a.Location.First - b.Location.First })
	return out
}

// Err is the violations as a *CheckError if "# check=error=true" asks for that.
func (c *Checks) Err() error {
	if !c.lint.ReturnAsError || len(*c.found) == 0 {
		return nil
	}
	return &CheckError{Warnings: c.Warnings()}
}

// CheckError is violations of checks in a Dockerfile that wants them to be errors.
type CheckError struct{ Warnings []Warning }

func (e *CheckError) Error() string {
	var rules []string
	for _, w := range e.Warnings {
		rules = append(rules, w.Rule)
	}
	slices.Sort(rules)
	return fmt.Sprintf("lint violation found for rules: %s", strings.Join(slices.Compact(rules), ", "))
}

func (c *Checks) run(rule linter.LinterRuleI, at []Range, detail string) {
	c.lint.Run(rule, at, detail)
}

// CopyIgnoredFile is for a source that .dockerignore excludes; instruction is "Copy" or "Add".
func (c *Checks) CopyIgnoredFile(at []Range, instruction, path string) {
	c.run(&linter.RuleCopyIgnoredFile, at, linter.RuleCopyIgnoredFile.Format(instruction, path))
}

// ExposeInvalidFormat is for an EXPOSE with a host's address or port.
func (c *Checks) ExposeInvalidFormat(at []Range, port string) {
	c.run(&linter.RuleExposeInvalidFormat, at, linter.RuleExposeInvalidFormat.Format(port))
}

// ExposeProtoCasing is for an EXPOSE whose protocol is not in lower case.
func (c *Checks) ExposeProtoCasing(at []Range, port string) {
	c.run(&linter.RuleExposeProtoCasing, at, linter.RuleExposeProtoCasing.Format(port))
}

// FromPlatformFlagConstDisallowed is for a FROM --platform without variables.
func (c *Checks) FromPlatformFlagConstDisallowed(at []Range, platform string) {
	c.run(&linter.RuleFromPlatformFlagConstDisallowed, at, linter.RuleFromPlatformFlagConstDisallowed.Format(platform))
}

// InvalidBaseImagePlatform is for a base that turns out to be of another platform.
func (c *Checks) InvalidBaseImagePlatform(at []Range, image, expected, actual string) {
	c.run(&linter.RuleInvalidBaseImagePlatform, at, linter.RuleInvalidBaseImagePlatform.Format(image, expected, actual))
}

// InvalidDefaultArgInFrom is for a base whose name is no image's when no build arguments are given.
func (c *Checks) InvalidDefaultArgInFrom(at []Range, base string) {
	c.run(&linter.RuleInvalidDefaultArgInFrom, at, linter.RuleInvalidDefaultArgInFrom.Format(base))
}

// JSONArgsRecommended is for CMD and ENTRYPOINT in shell form.
func (c *Checks) JSONArgsRecommended(at []Range, instruction string) {
	c.run(&linter.RuleJSONArgsRecommended, at, linter.RuleJSONArgsRecommended.Format(instruction))
}

// LegacyKeyValueFormat is for ENV and LABEL without "=".
func (c *Checks) LegacyKeyValueFormat(at []Range, instruction string) {
	c.run(&linter.RuleLegacyKeyValueFormat, at, linter.RuleLegacyKeyValueFormat.Format(instruction))
}

// MultipleInstructionsDisallowed is for a CMD, ENTRYPOINT or HEALTHCHECK that a later one replaces.
func (c *Checks) MultipleInstructionsDisallowed(at []Range, instruction string) {
	c.run(&linter.RuleMultipleInstructionsDisallowed, at, linter.RuleMultipleInstructionsDisallowed.Format(instruction))
}

// RedundantTargetPlatform is for FROM --platform=$TARGETPLATFORM.
func (c *Checks) RedundantTargetPlatform(at []Range, variable string) {
	c.run(&linter.RuleRedundantTargetPlatform, at, linter.RuleRedundantTargetPlatform.Format(variable))
}

// SecretsUsedInArgOrEnv is for a variable whose name is that of a secret; instruction is "ARG" or "ENV".
func (c *Checks) SecretsUsedInArgOrEnv(at []Range, instruction, name string) {
	c.run(&linter.RuleSecretsUsedInArgOrEnv, at, linter.RuleSecretsUsedInArgOrEnv.Format(instruction, name))
}

// similar is BuildKit's own search, since what is found is a part of its messages.
func similar(name string, names []string) string {
	match, _ := suggest.Search(name, names, true)
	return match
}

// UndefinedArgInFrom is for a FROM with a variable that no ARG before it declares.
func (c *Checks) UndefinedArgInFrom(at []Range, name string, declared []string) {
	c.run(&linter.RuleUndefinedArgInFrom, at, linter.RuleUndefinedArgInFrom.Format(name, similar(name, declared)))
}

// UndefinedVar is for a variable that is not set.
func (c *Checks) UndefinedVar(at []Range, name string, set []string) {
	c.run(&linter.RuleUndefinedVar, at, linter.RuleUndefinedVar.Format(name, similar(name, set)))
}

// WorkdirRelativePath is for a WORKDIR that depends on the base's.
func (c *Checks) WorkdirRelativePath(at []Range, path string) {
	c.run(&linter.RuleWorkdirRelativePath, at, linter.RuleWorkdirRelativePath.Format(path))
}

// stageNames checks that stages are told apart by names which are not reserved.
func (c *Checks) stageNames(stages []Stage) {
	seen := map[string]bool{}
	for _, s := range stages {
		if s.Name == "" {
			continue
		}
		if s.Name == "scratch" || s.Name == "context" {
			c.run(&linter.RuleReservedStageName, s.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		if seen[s.Name] {
			c.run(&linter.RuleDuplicateStageName, s.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		seen[s.Name] = true
	}
}

// casing checks that all instructions are written in the case of the majority, upper case where it is even.
func (c *Checks) casing(stages []Stage) {
	type instruction struct {
		name string
		at   []Range
	}
	var all []instruction
	for _, s := range stages {
		all = append(all, instruction{s.OrigCmd, s.Location})
		for _, cmd := range s.Commands {
			all = append(all, instruction{cmd.Name(), cmd.Location()})
		}
	}
	lower, upper := 0, 0
	for _, i := range all {
		switch i.name {
		case strings.ToLower(i.name):
			lower++
		case strings.ToUpper(i.name):
			upper++
		}
	}
	want, cased := "uppercase", strings.ToUpper
	if lower > upper {
		want, cased = "lowercase", strings.ToLower
	}
	for _, i := range all {
		if i.name != cased(i.name) {
			c.run(&linter.RuleConsistentInstructionCasing, i.at, linter.RuleConsistentInstructionCasing.Format(i.name, want))
		}
	}
}
