package plan

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
)

// readEpoch settles SOURCE_DATE_EPOCH: a number of seconds, "" for none, or what has a time of its own: the main context ("context"), a
// named one, or a stage that is nothing but one remote ADD. Instructions then see the number.
func (p *planner) readEpoch(ctx context.Context, stages []dockerfile.Stage) error {
	value, ok := p.args[epochArg]
	if !ok {
		value, ok = p.global.Get(epochArg)
	}
	if !ok {
		return nil
	}
	epoch, err := p.parseEpoch(ctx, value, stages)
	if err != nil {
		return err
	}
	p.epoch = epoch
	_, given := p.args[epochArg]
	_, declared := p.global.Get(epochArg)
	if epoch == nil {
		delete(p.args, epochArg)
		p.global.remove(epochArg)
		return nil
	}
	text := strconv.FormatInt(*epoch, 10)
	if given {
		p.args[epochArg] = text
	}
	if declared {
		p.global.set(epochArg, text)
	}
	return nil
}

func (p *planner) parseEpoch(ctx context.Context, value string, stages []dockerfile.Stage) (*int64, error) {
	if value == "" {
		return nil, nil
	}
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		return &n, nil
	}
	if value == "context" {
		return p.epochOf(ctx, value, EpochSource{Context: p.main})
	}
	if c := p.contextFor(value, nil); c != nil {
		return p.epochOf(ctx, value, EpochSource{Context: c})
	}
	for _, s := range stages {
		if s.Name == "" || !strings.EqualFold(s.Name, value) {
			continue
		}
		remote, err := p.remoteStage(s)
		if err != nil {
			return nil, p.errorAt(s.Location, err)
		}
		return p.epochOf(ctx, value, EpochSource{Remote: remote})
	}
	return nil, fmt.Errorf("invalid %s: %s", epochArg, value)
}

func (p *planner) epochOf(ctx context.Context, value string, src EpochSource) (*int64, error) {
	if p.opts.EpochOf == nil {
		return nil, fmt.Errorf("%s=%s: the time of a source cannot be asked for here", epochArg, value)
	}
	n, err := p.opts.EpochOf(ctx, src)
	if err != nil {
		return nil, fmt.Errorf("finding the time of %s=%s: %w", epochArg, value, err)
	}
	return n, nil
}

// remoteStage is the one remote source that a stage adds to nothing.
func (p *planner) remoteStage(s dockerfile.Stage) (*Remote, error) {
	base, _, err := p.lex.ProcessWord(s.BaseName, p.global)
	if err != nil {
		return nil, err
	}
	if base != scratchName {
		return nil, fmt.Errorf("%s stage must use FROM scratch", epochArg)
	}
	args := p.global.clone()
	args.remove(epochArg)
	var remote *Remote
	for _, c := range s.Commands {
		switch c := c.(type) {
		case *dockerfile.ArgCommand:
			if args, _, err = p.globalArgs(args, []dockerfile.ArgCommand{*c}, p.args); err != nil {
				return nil, err
			}
		case *dockerfile.AddCommand:
			if remote != nil {
				return nil, fmt.Errorf("%s stage must contain exactly one remote ADD", epochArg)
			}
			if remote, err = p.remoteSource(c, args); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%s stage does not meet source-only requirements: unsupported %s instruction", epochArg, c.Name())
		}
	}
	if remote == nil {
		return nil, fmt.Errorf("%s stage must contain exactly one remote ADD", epochArg)
	}
	return remote, nil
}

func (p *planner) remoteSource(c *dockerfile.AddCommand, args *env) (*Remote, error) {
	if len(c.SourceContents) != 0 || len(c.SourcePaths) != 1 {
		return nil, errors.New("the stage must contain exactly one remote ADD source")
	}
	src, _, err := p.lex.ProcessWord(c.SourcePaths[0], args)
	if err != nil {
		return nil, err
	}
	sum, _, err := p.lex.ProcessWord(c.Checksum, args)
	if err != nil {
		return nil, err
	}
	switch {
	case isGit(src):
		return &Remote{URL: src, Git: true, KeepGitDir: c.KeepGitDir, Checksum: sum}, nil
	case isHTTP(src):
		return &Remote{URL: src, Checksum: sum}, nil
	}
	return nil, errors.New("the stage's source must be a single HTTP(S) or Git ADD")
}
