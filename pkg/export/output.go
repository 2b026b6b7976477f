package export

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/suggest"
)

// The types of outputs.
const (
	// TypeRegistry pushes to registries. TypeImage keeps the image in the local store, and pushes too with push=true.
	TypeRegistry = "registry"
	TypeImage    = "image"
	// TypeOCI and TypeDocker write a tarball, or with tar=false a directory, in the layout of OCI or of docker save.
	TypeOCI    = "oci"
	TypeDocker = "docker"
	// TypeTar and TypeLocal write the root filesystem, as a tarball or into a directory.
	TypeTar   = "tar"
	TypeLocal = "local"
)

// Stdout is the Dest that stands for the standard output.
const Stdout = "-"

// Output is one -o/--output: where a result goes and in which form.
type Output struct {
	Type string
	// Dest is a file or directory, or Stdout; empty for TypeRegistry and TypeImage.
	Dest string
	// Attrs are the other attributes as given. Those of ParseOutput have been checked.
	Attrs map[string]string
}

// The attributes. annotation[-LEVEL][PLATFORM].KEY is one too.
const (
	attrName             = "name"
	attrPush             = "push"
	attrPushByDigest     = "push-by-digest"
	attrNameCanonical    = "name-canonical"
	attrCompression      = "compression"
	attrLevel            = "compression-level"
	attrForce            = "force-compression"
	attrOCITypes         = "oci-mediatypes"
	attrRewriteTimestamp = "rewrite-timestamp"
	attrTar              = "tar"
	attrPlatformSplit    = "platform-split"
)

// attrsOf lists the attributes that a type has, besides type and dest.
func attrsOf(typ string) ([]string, bool) {
	img := []string{attrName, attrCompression, attrLevel, attrForce, attrOCITypes, attrRewriteTimestamp}
	switch typ {
	case TypeRegistry:
		return append(img, attrPush, attrPushByDigest), true
	case TypeImage:
		return append(img, attrPush, attrPushByDigest, attrNameCanonical), true
	case TypeOCI, TypeDocker:
		return append(img, attrTar), true
	case TypeTar, TypeLocal:
		return []string{attrPlatformSplit}, true
	}
	return nil, false
}

// ParseOutput reads the value of -o/--output as docker buildx takes it: KEY=VALUE pairs as one record of CSV (RFC 4180), a
// directory alone for type=local, or "-" alone for type=tar on the standard output. What is not known is an error.
func ParseOutput(s string) (Output, error) {
	fields, err := readCSV(s)
	if err != nil {
		return Output{}, fmt.Errorf("reading output %q: %w", s, err)
	}
	if len(fields) == 1 && fields[0] == s && !strings.HasPrefix(s, "type=") {
		if s == Stdout {
			return Output{Type: TypeTar, Dest: Stdout, Attrs: map[string]string{}}, nil
		}
		return Output{Type: TypeLocal, Dest: s, Attrs: map[string]string{}}, nil
	}
	o := Output{Attrs: map[string]string{}}
	seen := map[string]bool{}
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return Output{}, fmt.Errorf("reading output %q: %q is not KEY=VALUE", s, f)
		}
		if k = strings.TrimSpace(k); !strings.HasPrefix(k, "annotation") {
			k = strings.ToLower(k)
		}
		if seen[k] {
			return Output{}, fmt.Errorf("reading output %q: %s is given twice", s, k)
		}
		seen[k] = true
		switch k {
		case "type":
			o.Type = v
		case "dest":
			o.Dest = v
		default:
			o.Attrs[k] = v
		}
	}
	if err := o.check(); err != nil {
		return Output{}, fmt.Errorf("reading output %q: %w", s, err)
	}
	return o, nil
}

func readCSV(s string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(s))
	fields, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("it is empty")
	}
	if err != nil {
		return nil, err
	}
	if _, err := r.Read(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one line")
	}
	return fields, nil
}

// check refuses what is wrong whatever is built.
func (o Output) check() error {
	if o.Type == "" {
		return errors.New("type= is missing")
	}
	known, ok := attrsOf(o.Type)
	if !ok {
		types := []string{TypeRegistry, TypeImage, TypeOCI, TypeDocker, TypeTar, TypeLocal}
		return fmt.Errorf("unknown type %q%s; there are %s", o.Type, suggest.Remark(o.Type, types), strings.Join(types, ", "))
	}
	switch o.Type {
	case TypeRegistry, TypeImage:
		if o.Dest != "" {
			return fmt.Errorf("type=%s has no dest", o.Type)
		}
		if o.Type == TypeRegistry && !o.flag(attrPush, true) {
			return errors.New("type=registry pushes; push=false contradicts it (type=image keeps the image here)")
		}
	case TypeLocal:
		if o.Dest == "" || o.Dest == Stdout {
			return errors.New("type=local needs dest=DIRECTORY")
		}
	default:
		if o.Dest == "" {
			return fmt.Errorf("type=%s needs dest=FILE, or dest=- for the standard output", o.Type)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(o.Attrs)) {
		if err := o.checkAttr(k, known); err != nil {
			return err
		}
	}
	if o.Dest == Stdout && !o.flag(attrTar, true) {
		return errors.New("tar=false writes a directory, which the standard output is not")
	}
	if typ := o.Attrs[attrCompression]; (typ == "zstd" || typ == "estargz") && !o.flag(attrOCITypes, true) {
		return fmt.Errorf("compression=%s conflicts with oci-mediatypes=false", typ)
	}
	_, err := o.compression()
	return err
}

func (o Output) checkAttr(k string, known []string) error {
	if !slices.Contains(known, k) {
		if o.Type != TypeTar && o.Type != TypeLocal {
			if _, ok, err := image.ParseAnnotationAttr(k, o.Attrs[k]); ok || err != nil {
				return err
			}
		}
		return fmt.Errorf("unknown attribute %s of type=%s%s", k, o.Type, suggest.Remark(k, append(known, "dest", "type")))
	}
	switch k {
	case attrName:
		_, err := o.names()
		return err
	case attrCompression, attrLevel:
		return nil
	}
	if _, err := parseBool(o.Attrs[k]); err != nil {
		return fmt.Errorf("%s=%s: want true or false", k, o.Attrs[k])
	}
	return nil
}

// parseBool reads an attribute's value; one without a value is true, as buildx takes it.
func parseBool(s string) (bool, error) {
	if s == "" {
		return true, nil
	}
	return strconv.ParseBool(s)
}

// flag returns a boolean attribute.
func (o Output) flag(k string, def bool) bool {
	v, ok := o.Attrs[k]
	if !ok {
		return def
	}
	b, err := parseBool(v)
	return b && err == nil
}

// HoldsLayers reports whether the output is made of the bytes of the layers: a registry and the local store may do with their names.
func (o Output) HoldsLayers() bool { return o.Type != TypeRegistry && o.Type != TypeImage }

// HoldsImage reports whether the output is an image, with a config.
func (o Output) HoldsImage() bool { return o.Type != TypeTar && o.Type != TypeLocal }

// names are those of name=, normalised.
func (o Output) names() ([]string, error) {
	var out []string
	for _, n := range strings.Split(o.Attrs[attrName], ",") {
		if n = strings.TrimSpace(n); n == "" {
			continue
		}
		r, err := image.Normalize(n)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// compression is what compression= and compression-level= ask for.
type compression struct {
	// typ is empty where layers stay as they are. level is nil for the default.
	typ   string
	level *int
	// force is for layers of the base image and those that have the type already.
	force bool
}

func (o Output) compression() (compression, error) {
	c := compression{typ: o.Attrs[attrCompression], force: o.flag(attrForce, false)}
	switch c.typ {
	case "", "gzip", "zstd", "estargz", "uncompressed":
	default:
		all := []string{"gzip", "zstd", "estargz", "uncompressed"}
		return c, fmt.Errorf("unknown compression %q%s; there are %s", c.typ, suggest.Remark(c.typ, all), strings.Join(all, ", "))
	}
	if v, ok := o.Attrs[attrLevel]; ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			return c, fmt.Errorf("compression-level=%s: want a number", v)
		}
		limit := 9
		switch c.typ {
		case "zstd":
			limit = 22
		case "uncompressed":
			return c, errors.New("compression=uncompressed has no level")
		}
		if n < 1 || n > limit {
			return c, fmt.Errorf("compression-level=%d: want 1 to %d", n, limit)
		}
		c.level = &n
	}
	if c.typ == "" && (c.level != nil || c.force) {
		c.typ = "gzip"
	}
	return c, nil
}
