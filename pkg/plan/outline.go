package plan

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
)

// The documents in this file have the JSON of BuildKit's subrequests (frontend.outline, frontend.targets and frontend.lint), which editors
// and docker buildx read. Their sources are the texts that locations mean.

// Outline is what a target can be given: arguments, secrets and agents.
type Outline struct {
	Name        string        `json:"name,omitempty"`
	Description string        `json:"description,omitempty"`
	Args        []OutlineArg  `json:"args,omitempty"`
	Secrets     []OutlineNeed `json:"secrets,omitempty"`
	SSH         []OutlineNeed `json:"ssh,omitempty"`
	Sources     [][]byte      `json:"sources,omitempty"`
}

// OutlineArg is a build argument with its default or given value.
type OutlineArg struct {
	Name        string        `json:"name"`
	Description string        `json:"description,omitempty"`
	Value       string        `json:"value,omitempty"`
	Location    *JSONLocation `json:"location,omitempty"`
}

// OutlineNeed is a secret or an SSH agent.
type OutlineNeed struct {
	Name     string        `json:"name"`
	Required bool          `json:"required,omitempty"`
	Location *JSONLocation `json:"location,omitempty"`
}

// TargetList are the stages of a file.
type TargetList struct {
	Targets []TargetInfo `json:"targets"`
	Sources [][]byte     `json:"sources"`
}

// TargetInfo is one stage, its base and platform as written.
type TargetInfo struct {
	Name        string        `json:"name,omitempty"`
	Default     bool          `json:"default,omitempty"`
	Description string        `json:"description,omitempty"`
	Base        string        `json:"base,omitempty"`
	Platform    string        `json:"platform,omitempty"`
	Location    *JSONLocation `json:"location,omitempty"`
}

// CheckReport is what the checks found.
type CheckReport struct {
	Warnings []CheckWarning `json:"warnings"`
	Sources  []CheckSource  `json:"sources"`
	Error    *CheckFailure  `json:"buildError,omitempty"`
}

// CheckWarning is a finding.
type CheckWarning struct {
	RuleName    string        `json:"ruleName"`
	Description string        `json:"description,omitempty"`
	URL         string        `json:"url,omitempty"`
	Detail      string        `json:"detail,omitempty"`
	Location    *JSONLocation `json:"location,omitempty"`
}

// CheckFailure is why the file cannot be built.
type CheckFailure struct {
	Message  string       `json:"message"`
	Location JSONLocation `json:"location"`
}

// CheckSource is the file that was checked.
type CheckSource struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
	Language string `json:"language,omitempty"`
}

// JSONLocation is a place in the first of the sources, a range for every line.
type JSONLocation struct {
	Ranges []JSONRange `json:"ranges,omitempty"`
}

// JSONRange is one line.
type JSONRange struct {
	Start JSONPosition `json:"start"`
	End   JSONPosition `json:"end"`
}

// JSONPosition is the start of a line, 1-based.
type JSONPosition struct {
	Line int `json:"line,omitempty"`
}

func jsonLocation(loc dockerfile.Location) *JSONLocation {
	out := &JSONLocation{}
	if loc.First == 0 {
		return out
	}
	for n := loc.First; n <= loc.Last; n++ {
		out.Ranges = append(out.Ranges, JSONRange{JSONPosition{n}, JSONPosition{n}})
	}
	return out
}

// Targets lists the stages of a file.
func Targets(file *dockerfile.File) (*TargetList, error) {
	stages, _, err := file.Stages()
	if err != nil {
		return nil, err
	}
	list := &TargetList{Targets: []TargetInfo{}, Sources: [][]byte{file.Data}}
	for i, s := range stages {
		list.Targets = append(list.Targets, TargetInfo{
			Name: s.Name, Description: s.DocComment, Default: i == len(stages)-1, Base: s.BaseName, Platform: s.Platform,
			Location: jsonLocation(file.LocationOf(s.Location)),
		})
	}
	return list, nil
}

// Describe outlines the target, for this machine's platform, as BuildKit does.
func Describe(ctx context.Context, file *dockerfile.File, opts Options) (*Outline, error) {
	opts.Platform, opts.ImplicitPlatform = opts.BuildPlatform, true
	p := newPlanner(file, opts)
	if _, err := p.plan(ctx); err != nil {
		return nil, err
	}
	if err := p.checks.Err(); err != nil {
		return nil, err
	}
	target, err := p.target()
	if err != nil {
		return nil, err
	}
	o := &Outline{Name: target.def.Name, Description: target.def.DocComment, Sources: [][]byte{file.Data}}
	seen := map[string]map[string]bool{"arg": {}, "secret": {}, "ssh": {}}
	first := func(kind, name string) bool {
		known := seen[kind][name]
		seen[kind][name] = true
		return !known
	}
	visited := map[*stage]bool{}
	var visit func(*stage)
	visit = func(s *stage) {
		if s == nil || visited[s] {
			return
		}
		visited[s] = true
		for _, name := range s.outline.usedArgs() {
			if a, ok := s.outline.args[name]; ok && first("arg", name) {
				o.Args = append(o.Args, OutlineArg{a.definition.Key, a.definition.DocComment, a.value, jsonLocation(a.at)})
			}
		}
		for name, n := range s.outline.secrets {
			if first("secret", name) {
				o.Secrets = append(o.Secrets, OutlineNeed{name, n.required, jsonLocation(n.at)})
			}
		}
		for name, n := range s.outline.ssh {
			if first("ssh", name) {
				o.SSH = append(o.SSH, OutlineNeed{name, n.required, jsonLocation(n.at)})
			}
		}
		visit(s.base)
		for _, c := range s.commands {
			for _, from := range c.from {
				if from != nil {
					visit(from.stage)
				}
			}
		}
	}
	visit(target)
	slices.SortFunc(o.Args, func(a, b OutlineArg) int { return byPlace(a.Location, b.Location, a.Name, b.Name) })
	needs := func(a, b OutlineNeed) int { return byPlace(a.Location, b.Location, a.Name, b.Name) }
	slices.SortFunc(o.Secrets, needs)
	slices.SortFunc(o.SSH, needs)
	return o, nil
}

func byPlace(a, b *JSONLocation, nameA, nameB string) int {
	line := func(l *JSONLocation) int {
		if len(l.Ranges) == 0 {
			return 0
		}
		return l.Ranges[0].Start.Line
	}
	if d := line(a) - line(b); d != 0 {
		return d
	}
	return strings.Compare(nameA, nameB)
}

// Report puts what Check, or the parsing before it, had to say into a document. data is the text of the file.
func Report(name string, data []byte, warnings []dockerfile.Warning, err error) *CheckReport {
	r := &CheckReport{Warnings: []CheckWarning{}, Sources: []CheckSource{{Filename: name, Data: data, Language: "Dockerfile"}}}
	if err != nil {
		r.Error = &CheckFailure{Message: err.Error()}
		if placed := (*dockerfile.Error)(nil); errors.As(err, &placed) {
			r.Error.Location = *jsonLocation(placed.Location)
			if warnings == nil {
				warnings = placed.Warnings
			}
		}
	}
	for _, w := range warnings {
		r.Warnings = append(r.Warnings, CheckWarning{w.Rule, w.Description, w.URL, w.Detail, jsonLocation(w.Location)})
	}
	return r
}

// stageOutline is what is noted of a stage for Describe.
type stageOutline struct {
	args         map[string]argInfo
	used         map[string]bool
	secrets, ssh map[string]needInfo
}

// argInfo is an argument: where it is declared, and which others its default is made of.
type argInfo struct {
	definition dockerfile.Arg
	value      string
	needs      map[string]struct{}
	at         dockerfile.Location
}

type needInfo struct {
	required bool
	at       dockerfile.Location
}

func newOutline(global map[string]argInfo) stageOutline {
	return stageOutline{args: maps.Clone(global), used: map[string]bool{}, secrets: map[string]needInfo{}, ssh: map[string]needInfo{}}
}

// use marks arguments as used.
func (o *stageOutline) use(names map[string]struct{}) {
	for n := range names {
		o.used[n] = true
	}
}

// need notes a secret or an agent, at its first place.
func (o *stageOutline) need(kind map[string]needInfo, name string, n needInfo) {
	if _, ok := kind[name]; !ok {
		kind[name] = n
	}
}

// usedArgs are the arguments used, and those that their defaults are made of.
func (o *stageOutline) usedArgs() []string {
	all := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		if all[name] {
			return
		}
		all[name] = true
		for n := range o.args[name].needs {
			visit(n)
		}
	}
	for n := range o.used {
		visit(n)
	}
	return slices.Sorted(maps.Keys(all))
}
