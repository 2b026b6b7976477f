package plan

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/hint"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const scratchName = "scratch"

// stage is a Stage in the making.
type stage struct {
	p     *planner
	def   dockerfile.Stage
	index int
	// label is what progress and errors call it.
	label string
	// base is the earlier stage it starts from; root what it starts from otherwise.
	base *stage
	root *root
	// platform is that of FROM --platform, nil if not given.
	platform *ocispec.Platform
	// replaced is set where a named context stands in for the stage: its instructions do not count.
	replaced bool
	commands []command
	// triggered is set once the ONBUILD triggers of the base are among the commands.
	triggered bool

	// What follows is set while the stage is planned, and inherited by the stages based on it.
	out        *Stage
	env        *env
	args       []dockerfile.Arg
	workdirSet bool
	// Of instructions that count once, the place of the last.
	cmdAt, entrypointAt, healthcheckAt []dockerfile.Range

	stepsDone, stepsTotal int
	inTrigger             bool

	outline stageOutline
}

// command is an instruction and where its files come from: one origin for COPY --from, one for every mount of a RUN.
type command struct {
	dockerfile.Command
	from    []*origin
	trigger bool
}

// origin is what a --from names: a stage of the file or something outside. Nil stands for no --from.
type origin struct {
	stage *stage
	root  *root
}

// addStage expands a FROM.
func (p *planner) addStage(index int, def dockerfile.Stage) error {
	checks := p.checks.With(def.Comments)
	s := &stage{p: p, def: def, index: index, label: def.Name, outline: newOutline(p.globalInfo)}
	if s.label == "" {
		s.label = fmt.Sprintf("stage-%d", index)
	}
	name, err := p.lex.ProcessWordWithMatches(def.BaseName, p.global)
	p.reportUndeclared(checks, def.Location, name.Unmatched)
	if err != nil {
		return p.errorAt(def.Location, err)
	}
	if name.Result == "" {
		return p.errorAt(def.Location, fmt.Errorf("base name (%s) should not be blank", def.BaseName))
	}
	s.def.BaseName = name.Result
	s.outline.use(name.Matched)
	if def.Platform != "" {
		if s.platform, err = s.readPlatform(checks); err != nil {
			return p.errorAt(def.Location, err)
		}
	}
	for _, c := range def.Commands {
		s.commands = append(s.commands, command{Command: c})
	}
	if c := p.contextFor(def.Name, s.platform); c != nil {
		s.replaced = true
		s.root = &root{name: def.Name, at: def.Location, platform: s.platform, context: c, stands: true}
	} else if base, ok := p.byName[s.def.BaseName]; ok {
		s.base = base
	} else {
		s.root = &root{name: s.def.BaseName, at: def.Location, platform: s.platform}
	}
	s.countSteps()
	p.stages = append(p.stages, s)
	if def.Name != "" {
		p.byName[def.Name] = s
	}
	return nil
}

// countSteps counts what progress numbers: the base, unless it is a stage or nothing, and what makes layers.
func (s *stage) countSteps() {
	if s.root != nil && s.root.name != scratchName {
		s.stepsTotal++
	}
	for _, c := range s.commands {
		switch c.Command.(type) {
		case *dockerfile.AddCommand, *dockerfile.CopyCommand, *dockerfile.RunCommand, *dockerfile.WorkdirCommand:
			s.stepsTotal++
		}
	}
}

// readPlatform expands and parses FROM --platform.
func (s *stage) readPlatform(checks *dockerfile.Checks) (*ocispec.Platform, error) {
	p, flag, at := s.p, s.def.Platform, s.def.Location
	res, err := p.lex.ProcessWordWithMatches(flag, p.global)
	p.reportUndeclared(checks, at, res.Unmatched)
	p.checkPlatformFlag(s.def, checks, res)
	if err != nil {
		return nil, fmt.Errorf("processing arguments for platform %s: %w", flag, err)
	}
	if res.Result == "" {
		return nil, suggestedAny(fmt.Errorf("empty platform value from expression %s", flag), res.Unmatched, p.global.Keys())
	}
	platform, err := platforms.Parse(res.Result)
	if err != nil {
		return nil, suggestedAny(fmt.Errorf("parsing platform %s: %w", flag, err), res.Unmatched, p.global.Keys())
	}
	s.outline.use(res.Matched)
	return &platform, nil
}

// connect finds what the instructions of all stages take files from.
func (p *planner) connect() error {
	for _, s := range p.stages {
		for i := range s.commands {
			if err := p.connectCommand(&s.commands[i]); err != nil {
				return p.errorAt(s.commands[i].Location(), err)
			}
		}
	}
	if err := p.checkCircles(); err != nil {
		return err
	}
	if len(p.stages) == 1 && len(p.roots) == 0 && !p.mounts {
		p.stages[0].label = ""
	}
	return nil
}

func (p *planner) connectCommand(c *command) error {
	switch cmd := c.Command.(type) {
	case *dockerfile.CopyCommand:
		if cmd.From == "" {
			return nil
		}
		o, err := p.copyOrigin(cmd.From, cmd.Location())
		if err != nil {
			return err
		}
		c.from = []*origin{o}
	case *dockerfile.RunCommand:
		for _, m := range dockerfile.Mounts(cmd) {
			p.mounts = true
			if m.From == "" {
				c.from = append(c.from, nil)
				continue
			}
			c.from = append(c.from, p.originNamed(m.From, cmd.Location()))
		}
	}
	return nil
}

// copyOrigin is the origin of a COPY --from: a stage's name or index, or else an image or context.
func (p *planner) copyOrigin(from string, at []dockerfile.Range) (*origin, error) {
	res, err := p.lex.ProcessWordWithMatches(from, newEnv(&p.meter))
	if err != nil {
		return nil, err
	}
	if res.Result != from {
		return nil, hint.With(errors.New("variable expansion is not supported for --from"),
			"define a new stage with FROM using ARG from global scope as a workaround")
	}
	if i, err := strconv.Atoi(from); err == nil {
		if i < 0 || i >= len(p.stages) {
			return nil, fmt.Errorf("invalid stage index %d", i)
		}
		return &origin{stage: p.stages[i]}, nil
	}
	return p.originNamed(from, at), nil
}

func (p *planner) originNamed(name string, at []dockerfile.Range) *origin {
	if s, ok := p.byName[strings.ToLower(name)]; ok {
		return &origin{stage: s}
	}
	r, ok := p.roots[name]
	if !ok {
		r = &root{name: name, at: at}
		p.roots[name] = r
	}
	return &origin{root: r}
}

// checkCircles refuses stages that copy from each other. Following a FROM never closes a circle: it names an earlier stage.
func (p *planner) checkCircles() error {
	const visiting, done = 1, 2
	state := map[*stage]int{}
	var visit func(*stage) *command
	visit = func(s *stage) *command {
		state[s] = visiting
		for i := range s.commands {
			c := &s.commands[i]
			for _, o := range c.from {
				if o == nil || o.stage == nil || state[o.stage] == done {
					continue
				}
				if state[o.stage] == visiting {
					return c
				}
				if found := visit(o.stage); found != nil {
					return found
				}
			}
		}
		state[s] = done
		return nil
	}
	for _, s := range p.stages {
		if state[s] != 0 {
			continue
		}
		if c := visit(s); c != nil {
			return p.errorAt(c.Location(), fmt.Errorf("circular dependency detected on stage: %s", s.label))
		}
	}
	return nil
}

// needs returns what target cannot do without: stages, and what is outside of the file.
func (p *planner) needs(target *stage) (map[*stage]bool, map[*root]bool) {
	stages, roots := map[*stage]bool{}, map[*root]bool{}
	var visit func(*stage)
	visit = func(s *stage) {
		if s == nil || stages[s] {
			return
		}
		stages[s] = true
		visit(s.base)
		if s.root != nil {
			roots[s.root] = true
		}
		if s.replaced {
			return
		}
		for _, c := range s.commands {
			for _, o := range c.from {
				switch {
				case o == nil:
				case o.stage != nil:
					visit(o.stage)
				default:
					roots[o.root] = true
				}
			}
		}
	}
	visit(target)
	if p.opts.AllStages {
		for _, s := range p.stages {
			visit(s)
		}
	}
	return stages, roots
}

// labels are the names of the stages, for suggestions.
func (p *planner) labels() []string {
	var out []string
	for _, s := range p.stages {
		if name := cmp.Or(s.def.Name, s.label); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// noCache reports whether the user wants the steps of a stage done again.
func (p *planner) noCache(s *stage) bool {
	return p.opts.NoCache || slices.ContainsFunc(p.opts.NoCacheStages, func(n string) bool { return strings.EqualFold(n, s.def.Name) })
}

// reportUndeclared warns of variables in a FROM that no ARG declares.
func (p *planner) reportUndeclared(checks *dockerfile.Checks, at []dockerfile.Range, unmatched map[string]struct{}) {
	declared := slices.AppendSeq(slices.Clone(p.global.Keys()), maps.Keys(p.globalInfo))
	for _, name := range slices.Sorted(maps.Keys(unmatched)) {
		if !slices.Contains(declared, name) {
			checks.UndefinedArgInFrom(at, name, declared)
		}
	}
}
