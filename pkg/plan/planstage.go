package plan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/moby/buildkit/util/system"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// historyComment marks the history entries of this dialect of Dockerfiles; tools look for it.
const historyComment = "buildkit.dockerfile.v0"

// addTriggers puts the ONBUILD triggers of the base before the stage's instructions. It reports whether they need files from elsewhere.
func (s *stage) addTriggers() (bool, error) {
	s.triggered = true
	var triggers []string
	switch {
	case s.replaced:
	case s.base != nil:
		for _, c := range s.base.def.Commands {
			if ob, ok := c.(*dockerfile.OnbuildCommand); ok {
				triggers = append(triggers, ob.Expression)
			}
		}
	default:
		triggers = s.root.image.Config.OnBuild
	}
	var cmds []command
	more := false
	for _, text := range triggers {
		ins, err := dockerfile.ParseTrigger(text, s.def.Location)
		if err != nil {
			return false, err
		}
		switch ins.(type) {
		case *dockerfile.OnbuildCommand, *dockerfile.MaintainerCommand:
			// Not to be had from a Dockerfile, but a config can say anything.
			return false, fmt.Errorf("%s isn't allowed as an ONBUILD trigger", strings.ToUpper(ins.Name()))
		}
		c := command{Command: ins, trigger: true}
		if err := s.p.connectCommand(&c); err != nil {
			return false, err
		}
		more = more || len(c.from) > 0
		cmds = append(cmds, c)
	}
	s.commands = append(cmds, s.commands...)
	s.stepsTotal += len(cmds)
	return more, nil
}

// plan carries out the instructions on the stage's config.
func (s *stage) plan() error {
	if err := s.begin(); err != nil {
		return s.p.errorAt(s.def.Location, err)
	}
	if s.replaced {
		return nil
	}
	for i := range s.commands {
		err := s.do(&s.commands[i])
		if err == nil {
			err = s.p.meter.err()
		}
		if err != nil {
			return s.p.errorAt(s.commands[i].Location(), err)
		}
	}
	return nil
}

// begin inherits from the base.
func (s *stage) begin() error {
	s.out = &Stage{Name: s.def.Name}
	if s.out.Name == "" {
		s.out.Name = strconv.Itoa(s.index)
	}
	if b := s.base; b != nil {
		s.out.Base = Source{Stage: b.out}
		s.out.Platform = b.out.Platform
		s.out.Image = cloneImage(b.out.Image)
		s.env = b.env.clone()
		s.args = slices.Clone(b.args)
		s.workdirSet = b.workdirSet
	} else {
		s.out.Base = s.root.source
		s.out.Platform = *s.root.platform
		s.out.Image = cloneImage(s.root.image)
		s.env = newEnv(&s.p.meter)
		if s.root.name != scratchName { // the base is the first step that progress numbers
			s.out.BaseName = s.stepName("FROM " + s.root.pinnedName())
		}
	}
	img := &s.out.Image
	img.RootFS = ocispec.RootFS{Type: "layers"}
	// Triggers have been read by now, and are not handed on to the next child.
	img.Config.OnBuild = nil
	if !slices.ContainsFunc(img.Config.Env, isPath) && s.out.Platform.OS != "windows" && !s.replaced {
		img.Config.Env = append(img.Config.Env, "PATH="+defaultPath)
	}
	for _, kv := range img.Config.Env {
		k, v, _ := strings.Cut(kv, "=")
		s.env.set(k, v)
	}
	if img.Config.WorkingDir == "" || s.replaced {
		return nil
	}
	wd, err := system.NormalizeWorkdir(img.Config.WorkingDir, img.Config.WorkingDir, s.out.Platform.OS)
	if err != nil {
		return fmt.Errorf("reading the working directory of the base: %w", err)
	}
	img.Config.WorkingDir = wd
	return nil
}

func isPath(kv string) bool { return kv == "PATH" || strings.HasPrefix(kv, "PATH=") }

// do expands the variables of an instruction and carries it out.
func (s *stage) do(c *command) error {
	checks := s.p.checks.With(c.Comments())
	s.inTrigger = c.trigger
	if err := s.expand(c, checks); err != nil {
		return err
	}
	switch ins := c.Command.(type) {
	case *dockerfile.AddCommand:
		return s.add(ins, checks)
	case *dockerfile.CopyCommand:
		return s.copy(ins, c.from, checks)
	case *dockerfile.RunCommand:
		return s.run(ins, c.from)
	case *dockerfile.WorkdirCommand:
		return s.workdir(ins, checks)
	case *dockerfile.ArgCommand:
		return s.arg(ins, checks)
	case *dockerfile.ExposeCommand:
		return s.expose(ins, checks)
	default:
		return s.configure(ins, checks)
	}
}

// expand replaces variables in an instruction, all by the values from before it. ARG has rules of its own.
func (s *stage) expand(c *command, checks *dockerfile.Checks) error {
	if _, isArg := c.Command.(*dockerfile.ArgCommand); isArg {
		return nil
	}
	expandWith := func(lex *dockerfile.Lex) func(string) (string, error) {
		return func(word string) (string, error) {
			out, unmatched, err := lex.ProcessWord(word, s.env)
			s.reportUnmatched(checks, c.Location(), unmatched)
			return out, err
		}
	}
	if e, ok := c.Command.(dockerfile.Expander); ok {
		if err := e.Expand(expandWith(s.p.lex)); err != nil {
			return err
		}
	}
	if e, ok := c.Command.(dockerfile.RawExpander); ok {
		// Heredocs: the content is no shell word, its quotes are content, and their escape is the backslash whatever the file's.
		lex := dockerfile.NewLex('\\')
		lex.SkipProcessQuotes = true
		return e.ExpandRaw(expandWith(lex))
	}
	return nil
}

// reportUnmatched warns of variables that nothing declares.
func (s *stage) reportUnmatched(checks *dockerfile.Checks, at []dockerfile.Range, unmatched map[string]struct{}) {
	for _, name := range slices.Sorted(maps.Keys(unmatched)) {
		if !scanArg(name) && !slices.ContainsFunc(s.args, func(a dockerfile.Arg) bool { return a.Key == name }) {
			checks.UndefinedVar(at, name, s.env.Keys())
		}
	}
}

// metadata records an instruction that changes the config only.
func (s *stage) metadata(createdBy string) { s.record(createdBy, -1) }

// layer records an instruction that makes a layer.
func (s *stage) layer(createdBy string, step *Step) {
	step.IgnoreCache = s.p.noCache(s)
	s.out.Steps = append(s.out.Steps, step)
	s.record(createdBy, len(s.out.Steps)-1)
}

func (s *stage) record(createdBy string, step int) {
	s.p.meter.spend(len(createdBy))
	s.out.Image.History = append(s.out.Image.History, ocispec.History{
		CreatedBy: createdBy, Comment: historyComment, EmptyLayer: step < 0,
	})
	s.out.HistoryStep = append(s.out.HistoryStep, step)
}

func (s *stage) location(at []dockerfile.Range) dockerfile.Location { return s.p.file.LocationOf(at) }
