package image

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Level is where an annotation is written.
type Level string

// The levels of annotations. A descriptor level writes into the descriptor that points to the manifest or the index.
const (
	LevelManifest           Level = "manifest"
	LevelManifestDescriptor Level = "manifest-descriptor"
	LevelIndex              Level = "index"
	LevelIndexDescriptor    Level = "index-descriptor"
)

// Annotation is one key and value to be written at one level, for one platform or (nil) all.
type Annotation struct {
	Level      Level
	Platform   *ocispec.Platform
	Key, Value string
}

// Annotations are those of an image; later ones win over earlier ones.
type Annotations []Annotation

// levelSyntax is LEVEL[PLATFORM], the platform in square brackets and optional.
const levelSyntax = `^([a-z-]+)(?:\[([A-Za-z0-9_/.-]+)\])?$`

// exportSyntax is the form exporters take them in: annotation[-LEVEL][PLATFORM].KEY (BuildKit, docs/annotations.md).
const exportSyntax = `^annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/.-]+)\])?\.(\S+)$`

// ParseAnnotation reads the value of --annotation: [LEVEL[,LEVEL...]:]KEY=VALUE, where a LEVEL is a name and optionally a
// platform ("manifest[linux/amd64]"). Without a level the annotation goes to the manifest.
func ParseAnnotation(s string) (Annotations, error) {
	k, v, ok := strings.Cut(s, "=")
	if !ok {
		return nil, fmt.Errorf("reading annotation %q: want KEY=VALUE", s)
	}
	levels, key, ok := strings.Cut(k, ":")
	if !ok {
		levels, key = string(LevelManifest), k
	}
	if key == "" {
		return nil, fmt.Errorf("reading annotation %q: the key is empty", s)
	}
	level := regexp.MustCompile(levelSyntax)
	var out Annotations
	for _, l := range strings.Split(levels, ",") {
		m := level.FindStringSubmatch(l)
		if m == nil {
			return nil, fmt.Errorf("reading annotation %q: %q is no level (manifest, index, manifest-descriptor, index-descriptor), "+
				"optionally with a platform as in manifest[linux/amd64]", s, l)
		}
		a, err := newAnnotation(m[1], m[2], key, v)
		if err != nil {
			return nil, fmt.Errorf("reading annotation %q: %w", s, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// ParseAnnotationAttr reads an exporter's attribute such as annotation-manifest[linux/amd64].KEY. ok is false if the name is no
// annotation's.
func ParseAnnotationAttr(name, value string) (a Annotation, ok bool, err error) {
	m := regexp.MustCompile(exportSyntax).FindStringSubmatch(name)
	if m == nil {
		return Annotation{}, false, nil
	}
	if m[1] == "" {
		m[1] = string(LevelManifest)
	}
	if a, err = newAnnotation(m[1], m[2], m[3], value); err != nil {
		err = fmt.Errorf("reading attribute %s: %w", name, err)
	}
	return a, true, err
}

func newAnnotation(level, platform, key, value string) (Annotation, error) {
	a := Annotation{Level: Level(level), Key: key, Value: value}
	switch a.Level {
	case LevelManifest, LevelManifestDescriptor:
	case LevelIndex, LevelIndexDescriptor:
		if platform != "" {
			return a, fmt.Errorf("an annotation of level %s is for all platforms", level)
		}
	default:
		return a, fmt.Errorf("%q is no level (manifest, index, manifest-descriptor, index-descriptor)", level)
	}
	if platform != "" {
		p, err := platforms.Parse(platform)
		if err != nil {
			return a, err
		}
		p = platforms.Normalize(p)
		a.Platform = &p
	}
	return a, nil
}

// at returns the annotations of one level for a platform, nil if there are none. One for the platform wins over one for all.
func (as Annotations) at(level Level, p *ocispec.Platform) map[string]string {
	var out map[string]string
	put := func(a Annotation) {
		if out == nil {
			out = map[string]string{}
		}
		out[a.Key] = a.Value
	}
	for _, a := range as {
		if a.Level == level && a.Platform == nil {
			put(a)
		}
	}
	for _, a := range as {
		if a.Level == level && a.Platform != nil && p != nil && platforms.FormatAll(*a.Platform) == platforms.FormatAll(*p) {
			put(a)
		}
	}
	return out
}

// check refuses annotations that would be written nowhere.
func (as Annotations) check(specs []Spec, o Options) error {
	for _, a := range as {
		if o.DockerMediaTypes && a.Level != LevelManifest {
			return errors.New("annotations of an index or a descriptor need OCI media types: they conflict with oci-mediatypes=false")
		}
	}
	targets := make([]ocispec.Platform, len(specs))
	for i, s := range specs {
		targets[i] = s.platform()
	}
	return as.Check(targets, o.Index)
}

// Check refuses annotations that would be written nowhere in an image for some platforms. index says that it is an index also for a single one.
func (as Annotations) Check(targets []ocispec.Platform, index bool) error {
	for _, a := range as {
		if len(targets) == 1 && !index && (a.Level == LevelIndex || a.Level == LevelIndexDescriptor) {
			return fmt.Errorf("annotation %s: an image for a single platform has no index", a.Key)
		}
		if a.Platform == nil {
			continue
		}
		found := false
		for _, t := range targets {
			found = found || platforms.FormatAll(t) == platforms.FormatAll(*a.Platform)
		}
		if !found {
			return fmt.Errorf("annotation %s: nothing is built for %s", a.Key, platforms.FormatAll(*a.Platform))
		}
	}
	return nil
}
