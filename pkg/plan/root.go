package plan

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	imageScheme  = "docker-image://"
	layoutScheme = "oci-layout://"
	defaultPath  = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// root is where files come from that no stage of the file makes: nothing, an image, or a named context.
type root struct {
	name string
	at   []dockerfile.Range
	// platform is the one asked for, nil for the plan's. After resolving it is that of the files.
	platform *ocispec.Platform
	// context is the named context; stands is set where it stands in for a whole stage.
	context *Context
	stands  bool

	resolved bool
	source   Source
	image    dockerspec.DockerOCIImage
}

// resolve finds out what all that the target needs starts from, and reads the ONBUILD triggers of bases, which may need more.
func (p *planner) resolve(ctx context.Context, target *stage) (map[*stage]bool, error) {
	for {
		stages, roots := p.needs(target)
		if err := p.resolveRoots(ctx, roots); err != nil {
			return nil, err
		}
		more := false
		for _, s := range p.stages {
			if !stages[s] || s.triggered {
				continue
			}
			added, err := s.addTriggers()
			if err != nil {
				return nil, p.errorAt(s.def.Location, err)
			}
			more = more || added
		}
		if !more {
			return stages, nil
		}
	}
}

func (p *planner) resolveRoots(ctx context.Context, roots map[*root]bool) error {
	todo := slices.DeleteFunc(slices.Collect(maps.Keys(roots)), func(r *root) bool { return r.resolved })
	// In the order of the file, so that of several errors and warnings always the same comes first.
	slices.SortFunc(todo, func(a, b *root) int {
		if d := p.file.LocationOf(a.at).First - p.file.LocationOf(b.at).First; d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	g, gctx := errgroup.WithContext(ctx)
	found := make([]*ResolvedImage, len(todo))
	refs := make([]string, len(todo))
	for i, r := range todo {
		r.resolved = true
		ref, err := p.prepareRoot(r)
		if err != nil {
			return p.errorAt(r.at, err)
		}
		if refs[i] = ref; ref == "" {
			continue
		}
		g.Go(func() error {
			img, err := p.opts.Images.ResolveImage(gctx, ref, p.rootPlatform(r))
			if err != nil {
				if !strings.Contains(err.Error(), r.name) {
					err = fmt.Errorf("%s: %w", r.name, err)
				}
				return p.errorAt(r.at, suggested(err, r.name, append(p.labels(), commonImages()...)))
			}
			found[i] = &img
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, r := range todo {
		if found[i] != nil {
			p.setImage(r, found[i])
		}
	}
	return nil
}

// prepareRoot settles what needs no question to anybody, and returns the reference of the image that has to be resolved, if there is one.
func (p *planner) prepareRoot(r *root) (string, error) {
	if r.context == nil && r.name == scratchName {
		r.platform = &p.opts.Platform
		r.image = emptyImage(p.opts.Platform)
		return "", nil
	}
	ref := ""
	if r.context == nil {
		named, err := reference.ParseNormalizedNamed(r.name)
		if err != nil {
			return "", fmt.Errorf("parsing stage name %q: %w", r.name, err)
		}
		ref = reference.TagNameOnly(named).String()
		platform := p.rootPlatform(r)
		if r.context = p.contextFor(ref, &platform); r.context == nil {
			return ref, nil
		}
	}
	name, isImage := strings.CutPrefix(r.context.URL, imageScheme)
	switch {
	case isImage && name == scratchName:
		r.setFiles(Source{}, p.rootPlatform(r))
		return "", nil
	case isImage:
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return "", fmt.Errorf("parsing the image of context %q: %w", r.context.Name, err)
		}
		return reference.TagNameOnly(named).String(), nil
	case strings.HasPrefix(r.context.URL, layoutScheme):
		return r.context.URL, nil
	}
	r.setFiles(Source{Context: r.context}, p.rootPlatform(r))
	return "", nil
}

// setFiles sets a source that has no config of its own.
func (r *root) setFiles(src Source, platform ocispec.Platform) {
	r.source, r.platform, r.image = src, &platform, emptyImage(platform)
}

// setImage sets what the resolver found.
func (p *planner) setImage(r *root, found *ResolvedImage) {
	asked := p.rootPlatform(r)
	r.image = cloneImage(found.Config)
	r.image.Created = nil
	r.source = Source{Image: found}
	switch {
	case r.stands:
		if r.image.OS != "" && r.image.Architecture != "" {
			asked = r.image.Platform
		}
	case r.context != nil:
	default:
		if r.platform == nil && p.opts.ImplicitPlatform {
			asked = p.detectPlatform(r.image.Platform, asked)
		}
		if noLayers(found.Config) {
			r.source = Source{}
		} else if asked.OS != r.image.OS || asked.Architecture != r.image.Architecture {
			p.checks.InvalidBaseImagePlatform(r.at, r.name, formatPlatform(asked), formatPlatform(r.image.Platform))
		}
	}
	r.platform = &asked
}

// pinnedName is what the root turned out to be, with its digest if it has one.
func (r *root) pinnedName() string {
	switch {
	case r.source.Image != nil && r.source.Image.Digest != "" && !strings.Contains(r.source.Image.Ref, "@"):
		return r.source.Image.Ref + "@" + r.source.Image.Digest.String()
	case r.source.Image != nil:
		return r.source.Image.Ref
	case r.context != nil:
		return r.context.URL
	}
	return r.name
}

// detectPlatform is the platform a build for nothing in particular goes on with: that of the base, if it can run here.
func (p *planner) detectPlatform(img, target ocispec.Platform) ocispec.Platform {
	build := p.opts.BuildPlatform
	if (target.OS != img.OS || target.Architecture != img.Architecture) && build.OS == img.OS && build.Architecture == img.Architecture {
		return build
	}
	return target
}

func (p *planner) rootPlatform(r *root) ocispec.Platform {
	if r.platform != nil {
		return *r.platform
	}
	return p.opts.Platform
}

// readContexts normalises the names of the contexts as those of images: what is a short name there is one here.
func (p *planner) readContexts() error {
	p.main = &Context{}
	for key, c := range p.opts.Contexts {
		if key == "" {
			*p.main = Context{URL: c.URL}
			continue
		}
		name, platform, forOne := strings.Cut(key, "::")
		norm, err := contextName(name)
		if err != nil {
			return err
		}
		if forOne {
			parsed, err := platforms.Parse(platform)
			if err != nil {
				return fmt.Errorf("parsing the platform of context %q: %w", key, err)
			}
			norm += "::" + formatPlatform(parsed)
		}
		p.contexts[norm] = &Context{Name: key, URL: c.URL}
	}
	return nil
}

func contextName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("invalid context name %s: %w", name, err)
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest"), nil
}

// contextFor is the named context that replaces a stage or an image for a platform (nil: the plan's), or nil.
func (p *planner) contextFor(name string, platform *ocispec.Platform) *Context {
	if name == "" || strings.EqualFold(name, scratchName) || strings.EqualFold(name, "context") {
		return nil
	}
	norm, err := contextName(name)
	if err != nil {
		return nil
	}
	if platform == nil {
		platform = &p.opts.Platform
	}
	if c, ok := p.contexts[norm+"::"+formatPlatform(*platform)]; ok {
		return c
	}
	return p.contexts[norm]
}

// emptyImage is the config of an image without files.
func emptyImage(platform ocispec.Platform) dockerspec.DockerOCIImage {
	img := dockerspec.DockerOCIImage{}
	img.Platform = platform
	img.OSFeatures = slices.Clone(platform.OSFeatures)
	img.Config.WorkingDir = "/"
	if platform.OS != "windows" {
		img.Config.Env = []string{"PATH=" + defaultPath}
	}
	return img
}

// noLayers reports whether an image consists of its config alone.
func noLayers(img dockerspec.DockerOCIImage) bool {
	return len(img.RootFS.DiffIDs) == 0 &&
		!slices.ContainsFunc(img.History, func(h ocispec.History) bool { return !h.EmptyLayer })
}

// cloneImage copies what planning changes.
func cloneImage(src dockerspec.DockerOCIImage) dockerspec.DockerOCIImage {
	img := src
	img.RootFS = ocispec.RootFS{Type: "layers"}
	img.Config.Env = slices.Clone(src.Config.Env)
	img.Config.Cmd = slices.Clone(src.Config.Cmd)
	img.Config.Entrypoint = slices.Clone(src.Config.Entrypoint)
	img.Config.OnBuild = slices.Clone(src.Config.OnBuild)
	img.Config.Shell = slices.Clone(src.Config.Shell)
	img.Config.ExposedPorts = maps.Clone(src.Config.ExposedPorts)
	img.Config.Volumes = maps.Clone(src.Config.Volumes)
	img.Config.Labels = maps.Clone(src.Config.Labels)
	if h := src.Config.Healthcheck; h != nil {
		c := *h
		c.Test = slices.Clone(h.Test)
		img.Config.Healthcheck = &c
	}
	img.History = slices.Clone(src.History)
	return img
}

// commonImages are what a misspelled image most likely means.
func commonImages() []string {
	return []string{"alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"}
}

func validReference(name string) bool {
	_, err := reference.ParseNormalizedNamed(name)
	return err == nil
}
