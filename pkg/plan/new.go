package plan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/hint"
	"github.com/cairn-build/cairn/pkg/suggest"
	"github.com/containerd/platforms"
	"github.com/moby/patternmatcher"
)

// New plans a Dockerfile for one platform. Errors that have a place in the file are *dockerfile.Error; violations of checks are a
// *dockerfile.CheckError where the file wants them to be errors. Warnings that concern the file alone are the same in the plans for all
// platforms.
func New(ctx context.Context, file *dockerfile.File, opts Options) (*Plan, error) {
	p := newPlanner(file, opts)
	plan, err := p.plan(ctx)
	if err != nil {
		return nil, err
	}
	return plan, p.checks.Err()
}

// Check plans a Dockerfile for the sake of the checks: all stages, unless there is a target, and for this machine's platform, as BuildKit
// does. The error is what makes a plan impossible; the warnings found until then are returned all the same.
func Check(ctx context.Context, file *dockerfile.File, opts Options) ([]dockerfile.Warning, error) {
	opts.AllStages = opts.AllStages || opts.Target == ""
	opts.Platform, opts.ImplicitPlatform = opts.BuildPlatform, true
	p := newPlanner(file, opts)
	_, err := p.plan(ctx)
	if err == nil {
		err = p.checks.Err()
	}
	return p.checks.Warnings(), err
}

func newPlanner(file *dockerfile.File, opts Options) *planner {
	return &planner{
		file: file, opts: opts,
		args:     maps.Clone(opts.BuildArgs),
		lex:      dockerfile.NewLex(file.Escape),
		checks:   file.Checks(),
		byName:   map[string]*stage{},
		roots:    map[string]*root{},
		contexts: map[string]*Context{},
	}
}

func (p *planner) plan(ctx context.Context) (*Plan, error) {
	stages, meta, err := p.file.Stages()
	if err != nil {
		return nil, err
	}
	if len(stages) == 0 {
		return nil, p.file.ErrorAt(dockerfile.Location{}, errors.New("dockerfile contains no stages to build"))
	}
	if err := p.readOptions(); err != nil {
		return nil, err
	}
	if err := p.readGlobals(ctx, stages, meta); err != nil {
		return nil, err
	}
	for i, def := range stages {
		if err := p.addStage(i, def); err != nil {
			return nil, err
		}
	}
	if err := p.connect(); err != nil {
		return nil, err
	}
	target, err := p.target()
	if err != nil {
		return nil, err
	}
	needed, err := p.resolve(ctx, target)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Platform: p.opts.Platform, Epoch: p.epoch}
	for _, s := range p.stages {
		if !needed[s] {
			continue
		}
		if err := s.plan(); err != nil {
			return nil, err
		}
		if s != target {
			plan.Stages = append(plan.Stages, s.out)
		}
	}
	plan.Stages = append(plan.Stages, target.out)
	p.finish(target.out)
	plan.Warnings = p.checks.Warnings()
	plan.UnusedArgs = p.unusedArgs(meta)
	return plan, nil
}

// planner is one call of New.
type planner struct {
	file *dockerfile.File
	opts Options
	// args are the build arguments, with what the options say in another way.
	args   map[string]string
	lex    *dockerfile.Lex
	checks *dockerfile.Checks
	meter  meter
	// global are the arguments that FROM sees, and what an ARG without a value is set to; platformKeys those every Dockerfile has.
	global       *env
	platformKeys []string
	// globalInfo is about the ARGs before the first FROM, also those without a value.
	globalInfo map[string]argInfo
	epoch      *int64
	ignore     *patternmatcher.PatternMatcher
	main       *Context
	// contexts are the named ones, by their normalised name, with "::platform" if they are for one only.
	contexts map[string]*Context

	stages []*stage
	byName map[string]*stage
	// roots are what --from names that are no stages.
	roots map[string]*root
	// mounts is set where there is a RUN mount, which makes BuildKit name even a single stage.
	mounts bool
}

func (p *planner) errorAt(at []dockerfile.Range, err error) error {
	return p.file.ErrorAt(p.file.LocationOf(at), err)
}

// readOptions checks and normalises what the options say.
func (p *planner) readOptions() error {
	if p.args == nil {
		p.args = map[string]string{}
	}
	if _, ok := p.args[epochArg]; !ok && p.opts.Epoch != nil {
		p.args[epochArg] = strconv.FormatInt(*p.opts.Epoch, 10)
	}
	if ns := p.args[cacheNamespaceArg]; ns != "" {
		p.opts.CacheNamespace = ns
	}
	switch p.opts.Network {
	case "default", "sandbox":
		p.opts.Network = ""
	case "", networkNone, networkHost:
	default:
		return fmt.Errorf("invalid network mode %q", p.opts.Network)
	}
	var err error
	if len(p.opts.IgnorePatterns) > 0 {
		if p.ignore, err = patternmatcher.New(p.opts.IgnorePatterns); err != nil {
			return fmt.Errorf("reading the patterns of .dockerignore: %w", err)
		}
	}
	return p.readContexts()
}

// readGlobals sets what is the same for all stages.
func (p *planner) readGlobals(ctx context.Context, stages []dockerfile.Stage, meta []dockerfile.ArgCommand) (err error) {
	given := p.platformArgs(stages)
	p.platformKeys = slices.Clone(given.Keys())
	p.checkDefaultBases(given, stages, meta)
	if p.global, p.globalInfo, err = p.globalArgs(given, meta, p.args); err != nil {
		return err
	}
	return p.readEpoch(ctx, stages)
}

// target is the stage that the options name, by name or else by index.
func (p *planner) target() (*stage, error) {
	name := p.opts.Target
	if name == "" {
		return p.stages[len(p.stages)-1], nil
	}
	if s, ok := p.byName[strings.ToLower(name)]; ok {
		return s, nil
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(p.stages) {
		return p.stages[i], nil
	}
	err := fmt.Errorf("target stage %q could not be found", name)
	return nil, p.file.ErrorAt(dockerfile.Location{}, suggested(err, name, p.labels()))
}

// finish gives the target what the options say of the image.
func (p *planner) finish(target *Stage) {
	img := &target.Image
	if len(p.opts.Labels) > 0 && img.Config.Labels == nil {
		img.Config.Labels = map[string]string{}
	}
	maps.Copy(img.Config.Labels, p.opts.Labels)
	if want := p.opts.Platform; !p.opts.ImplicitPlatform {
		same := want.OS == img.OS && want.Architecture == img.Architecture
		img.OS, img.Architecture = want.OS, want.Architecture
		if want.Variant != "" || !same {
			img.Variant = want.Variant
		}
		if want.OSVersion != "" || !same {
			img.OSVersion = want.OSVersion
		}
		if want.OSFeatures != nil {
			img.OSFeatures = slices.Clone(want.OSFeatures)
		}
	}
	img.Platform = platforms.Normalize(img.Platform)
}

// suggested adds to an error the option that a misspelled word may mean.
func suggested(err error, word string, options []string) error {
	return hint.With(err, suggest.Hint(word, options))
}

// suggestedAny is suggested for the first of several words that resembles an option.
func suggestedAny(err error, words map[string]struct{}, options []string) error {
	for _, w := range slices.Sorted(maps.Keys(words)) {
		if h := suggest.Hint(w, options); h != "" {
			return hint.With(err, h)
		}
	}
	return err
}
