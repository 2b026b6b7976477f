package plan

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	epochArg          = "SOURCE_DATE_EPOCH"
	cacheNamespaceArg = "BUILDKIT_CACHE_MOUNT_NS"
)

// platformArgs are the arguments every Dockerfile has before its first line; build arguments of the same name win.
func (p *planner) platformArgs(stages []dockerfile.Stage) *env {
	target := p.opts.Target
	if target == "" {
		target = stages[len(stages)-1].Name
	}
	if target == "" {
		target = "default"
	}
	b, t := p.opts.BuildPlatform, p.opts.Platform
	e := newEnv(&p.meter)
	for _, a := range [][2]string{
		{"BUILDPLATFORM", platforms.Format(b)},
		{"BUILDOS", b.OS},
		{"BUILDOSVERSION", b.OSVersion},
		{"BUILDARCH", b.Architecture},
		{"BUILDVARIANT", b.Variant},
		{"TARGETPLATFORM", platforms.FormatAll(t)},
		{"TARGETOS", t.OS},
		{"TARGETOSVERSION", t.OSVersion},
		{"TARGETARCH", t.Architecture},
		{"TARGETVARIANT", t.Variant},
		{"TARGETSTAGE", target},
	} {
		value := a[1]
		if v, ok := p.args[a[0]]; ok {
			value = v
		}
		e.set(a[0], value)
	}
	return e
}

// globalArgs adds the ARGs before the first FROM to args; given are the build arguments. What it returns besides is about every ARG.
func (p *planner) globalArgs(args *env, meta []dockerfile.ArgCommand, given map[string]string) (*env, map[string]argInfo, error) {
	args = args.clone()
	infos := map[string]argInfo{}
	for _, cmd := range meta {
		for _, a := range cmd.Args {
			info := argInfo{definition: a, at: p.file.LocationOf(cmd.Location()), needs: map[string]struct{}{}}
			value, ok := given[a.Key]
			if !ok && a.Value != nil {
				res, err := p.lex.ProcessWordWithMatches(*a.Value, args)
				if err = errors.Join(err, p.meter.err()); err != nil {
					return nil, nil, p.errorAt(cmd.Location(), err)
				}
				value, ok = res.Result, true
				maps.Copy(info.needs, res.Matched)
				if _, again := info.needs[a.Key]; again { // a default made of the value before it needs what that needed
					delete(info.needs, a.Key)
					maps.Copy(info.needs, infos[a.Key].needs)
				}
			}
			if ok {
				args.set(a.Key, value)
				info.value = value
			}
			infos[a.Key] = info
		}
	}
	return args, infos, nil
}

// checkDefaultBases warns of bases whose names make no sense when no build arguments are given.
func (p *planner) checkDefaultBases(args *env, stages []dockerfile.Stage, meta []dockerfile.ArgCommand) {
	args, _, err := p.globalArgs(args, meta, nil)
	if err != nil {
		return // the same error comes again where it counts
	}
	for _, s := range stages {
		res, err := p.lex.ProcessWordWithMatches(s.BaseName, args)
		if err != nil {
			return
		}
		if !validReference(res.Result) {
			p.checks.InvalidDefaultArgInFrom(s.Location, s.BaseName)
		}
	}
}

// arg declares arguments of the stage: a build argument's value wins over the default, and that over the global one.
func (s *stage) arg(c *dockerfile.ArgCommand, checks *dockerfile.Checks) error {
	texts := make([]string, 0, len(c.Args))
	for _, a := range c.Args {
		s.checkSecretName(checks, "ARG", a.Key, c.Location())
		inherited := false
		if v, ok := s.p.args[a.Key]; ok {
			a.Value = &v
		} else if a.Value != nil {
			v, unmatched, err := s.p.lex.ProcessWord(*a.Value, s.env)
			s.reportUnmatched(checks, c.Location(), unmatched)
			if err != nil {
				return err
			}
			a.Value = &v
		} else if v, ok := s.p.global.Get(a.Key); ok {
			a.Value = &v
			inherited = true
		}
		if !inherited { // else it is the global one's business
			s.outline.args[a.Key] = argInfo{definition: a, value: a.ValueString(), at: s.location(c.Location())}
		}
		s.outline.used[a.Key] = true
		if a.Value != nil && !scanArg(a.Key) {
			s.env.set(a.Key, *a.Value)
		}
		s.args = append(s.args, a)
		text := a.Key
		if a.Value != nil {
			text += "=" + *a.Value
		}
		texts = append(texts, text)
	}
	s.metadata("ARG " + strings.Join(texts, " "))
	return nil
}

// scanArg reports whether an argument speaks to BuildKit's SBOM scanner and therefore is no variable of the stage.
func scanArg(name string) bool {
	return name == "BUILDKIT_SBOM_SCAN_CONTEXT" || name == "BUILDKIT_SBOM_SCAN_STAGE"
}

// historyArgs are the arguments in scope of a RUN as history shows them: "|2 A=1 B=2 ", "" if there are none.
func (s *stage) historyArgs() []string {
	var out []string
	index := map[string]int{}
	for _, a := range s.args {
		v, ok := s.env.Get(a.Key)
		if !ok {
			v = a.ValueString()
		}
		if i, ok := index[a.Key]; ok {
			out[i] = a.Key + "=" + v
			continue
		}
		index[a.Key] = len(out)
		out = append(out, a.Key+"="+v)
	}
	return out
}

// proxyEnv is the environment that predefined proxy arguments give to every RUN. The lower-case spelling of an argument wins.
func proxyEnv(args map[string]string) []string {
	values := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(args)) {
		values[strings.ToLower(k)] = args[k]
	}
	var out []string
	for _, name := range proxyArgs() {
		if v := values[name]; v != "" {
			out = append(out, strings.ToUpper(name)+"="+v, name+"="+v)
		}
	}
	return out
}

func proxyArgs() []string {
	return []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"}
}

// unusedArgs are the build arguments that no ARG of the file declares and that mean nothing by themselves.
func (p *planner) unusedArgs(meta []dockerfile.ArgCommand) []string {
	used := map[string]bool{epochArg: true}
	for _, k := range p.platformKeys {
		used[k] = true
	}
	for _, cmd := range meta {
		for _, a := range cmd.Args {
			used[a.Key] = true
		}
	}
	for _, s := range p.stages {
		for _, c := range s.commands {
			if arg, ok := c.Command.(*dockerfile.ArgCommand); ok {
				for _, a := range arg.Args {
					used[a.Key] = true
				}
			}
		}
	}
	var out []string
	for k := range p.opts.BuildArgs {
		if !used[k] && !strings.HasPrefix(k, "BUILDKIT_") && !slices.Contains(proxyArgs(), strings.ToLower(k)) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// formatPlatform is a platform with all that tells it from others, in its short form.
func formatPlatform(p ocispec.Platform) string { return platforms.FormatAll(platforms.Normalize(p)) }
