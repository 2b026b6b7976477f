package cache

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/cairn-build/cairn/pkg/suggest"
)

// The types of places that records are exported to and imported from.
const (
	TypeRegistry = "registry"
	TypeInline   = "inline"
	TypeLocal    = "local"
)

// The modes of an export.
const (
	// ModeMin exports the steps that the image consists of, ModeMax those of all stages.
	ModeMin = "min"
	ModeMax = "max"
)

// Location is one --cache-to or --cache-from, or one --cache-mounts-to or --cache-mounts-from.
type Location struct {
	Type string
	// Ref is a normalised reference, of TypeRegistry.
	Ref string
	// Dir is an OCI image layout with an absolute path, Tag a name in it, of TypeLocal. Digest names a manifest instead, for an import.
	Dir, Tag string
	Digest   digest.Digest
	// Mode is ModeMin or ModeMax, of an export.
	Mode string
	// IgnoreError makes a failing export a warning.
	IgnoreError bool
	// IDs are the cache mounts to be exported or imported; empty is all.
	IDs []string
}

// String is what the location is called in messages.
func (l Location) String() string {
	switch l.Type {
	case TypeRegistry:
		return l.Ref
	case TypeLocal:
		return l.Dir
	}
	return l.Type
}

// Name is what trust in records from there is remembered by: the repository, or the directory.
func (l Location) Name() string {
	if l.Type == TypeLocal {
		return layoutOrigin + l.Dir
	}
	if n, err := reference.ParseNormalizedNamed(l.Ref); err == nil {
		return n.Name()
	}
	return l.String()
}

// direction is what a location is read for: the flag's name, the keys of each type, and those that are needed.
type direction struct {
	flag string
	keys map[string][]string
}

func exportKeys() direction {
	return direction{"cache-to", map[string][]string{
		TypeRegistry: {"ref", "mode", "ignore-error", "oci-mediatypes", "image-manifest"},
		TypeInline:   {"ignore-error"},
		TypeLocal:    {"dest", "tag", "mode", "ignore-error", "oci-mediatypes", "image-manifest"},
	}}
}

func importKeys() direction {
	return direction{"cache-from", map[string][]string{TypeRegistry: {"ref"}, TypeLocal: {"src", "tag", "digest"}}}
}

func mountExportKeys() direction {
	return direction{"cache-mounts-to", map[string][]string{
		TypeRegistry: {"ref", "id", "ignore-error"}, TypeLocal: {"dest", "tag", "id", "ignore-error"},
	}}
}

func mountImportKeys() direction {
	return direction{"cache-mounts-from", map[string][]string{TypeRegistry: {"ref", "id"}, TypeLocal: {"src", "tag", "digest", "id"}}}
}

// ParseExport reads the value of --cache-to as docker buildx takes it: KEY=VALUE pairs as one record of CSV, or a reference alone for
// type=registry. What is not known is an error.
func ParseExport(s string) (Location, error) { return parseLocation(s, exportKeys()) }

// ParseImport reads the value of --cache-from in the same way.
func ParseImport(s string) (Location, error) { return parseLocation(s, importKeys()) }

// ParseMountExport reads the value of --cache-mounts-to, with the same syntax; id= may be repeated.
func ParseMountExport(s string) (Location, error) { return parseLocation(s, mountExportKeys()) }

// ParseMountImport reads the value of --cache-mounts-from.
func ParseMountImport(s string) (Location, error) { return parseLocation(s, mountImportKeys()) }

func parseLocation(s string, d direction) (Location, error) {
	l, err := readLocation(s, d)
	if err != nil {
		return Location{}, fmt.Errorf("--%s %q: %w", d.flag, s, err)
	}
	return l, nil
}

func readLocation(s string, d direction) (Location, error) {
	l := Location{Mode: ModeMin, Tag: "latest"}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if errors.Is(err, io.EOF) {
		return l, errors.New("it is empty")
	}
	if err != nil {
		return l, err
	}
	if len(fields) == 1 && !strings.Contains(fields[0], "=") {
		fields = []string{"type=" + TypeRegistry, "ref=" + fields[0]}
	}
	attrs := map[string]string{}
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if k = strings.ToLower(strings.TrimSpace(k)); !ok {
			return l, fmt.Errorf("%q is not KEY=VALUE", f)
		}
		if k == "id" {
			l.IDs = append(l.IDs, v)
			continue
		}
		if _, twice := attrs[k]; twice {
			return l, fmt.Errorf("%s is given twice", k)
		}
		attrs[k] = v
	}
	l.Type = attrs["type"]
	delete(attrs, "type")
	known, ok := d.keys[l.Type]
	if !ok {
		types := slices.Sorted(maps.Keys(d.keys))
		if l.Type == "" {
			return l, fmt.Errorf("type= is missing; there are %s", strings.Join(types, ", "))
		}
		return l, fmt.Errorf("unknown type %q%s; there are %s", l.Type, suggest.Remark(l.Type, types), strings.Join(types, ", "))
	}
	if len(l.IDs) > 0 && !slices.Contains(known, "id") {
		attrs["id"] = l.IDs[0]
	}
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		if !slices.Contains(known, k) {
			return l, fmt.Errorf("unknown key %s of type=%s%s; there are %s", k, l.Type, suggest.Remark(k, known), strings.Join(known, ", "))
		}
		if err := l.set(k, attrs[k]); err != nil {
			return l, err
		}
	}
	return l, l.complete(d)
}

// set takes over one attribute.
func (l *Location) set(k, v string) error {
	switch k {
	case "ref":
		n, err := reference.ParseNormalizedNamed(v)
		if err != nil {
			return fmt.Errorf("ref=%s: %w", v, err)
		}
		l.Ref = reference.TagNameOnly(n).String()
	case "dest", "src":
		dir, err := filepath.Abs(v)
		if err != nil || v == "" {
			return fmt.Errorf("%s=%s: not a directory's name", k, v)
		}
		l.Dir = dir
	case "tag":
		l.Tag = v
	case "digest":
		if l.Digest = digest.Digest(v); l.Digest.Validate() != nil || l.Digest.Algorithm() != digest.SHA256 {
			return fmt.Errorf("digest=%s: want sha256:HEX", v)
		}
	case "mode":
		if v != ModeMin && v != ModeMax {
			return fmt.Errorf("mode=%s: there are min and max", v)
		}
		l.Mode = v
	default:
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%s=%s: want true or false", k, v)
		}
		if k == "ignore-error" {
			l.IgnoreError = on
		} else if !on {
			return fmt.Errorf("%s=false: records are always OCI image manifests", k)
		}
	}
	return nil
}

// complete refuses a location that does not say where it is.
func (l Location) complete(d direction) error {
	switch {
	case l.Type == TypeRegistry && l.Ref == "":
		return errors.New("type=registry needs ref=NAME[:TAG]")
	case l.Type == TypeLocal && l.Dir == "":
		return fmt.Errorf("type=local needs %s=DIRECTORY", d.keys[TypeLocal][0])
	}
	return nil
}
