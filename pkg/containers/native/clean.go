package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/core"
	localimage "github.com/cairn-build/cairn/pkg/image"
)

// Clean implements core.Backend. An image's age is that of its config's time, as with Docker. What images consisted of is removed from the disk
// by `cairn system prune`, or whatever else collects the store's garbage.
func (b *Backend) Clean(ctx context.Context, age time.Duration, reference string) error {
	filter := map[string]map[string]bool{}
	if reference != "" {
		filter["reference"] = map[string]bool{reference: true}
	}
	return b.CleanFilter(ctx, age, filter)
}

// CleanFilter implements core.FilterCleaner. The filters are reference (a name, or a pattern as path.Match takes it), label (NAME or NAME=VALUE) and
// dangling (true or false); values of one are alternatives, but for labels, which must all be there.
func (b *Backend) CleanFilter(ctx context.Context, age time.Duration, filter map[string]map[string]bool) error {
	for key := range filter {
		if key != "reference" && key != "label" && key != "dangling" {
			return fmt.Errorf("cleaning: filter %q: %w", key, core.ErrNotSupported)
		}
	}
	entries, err := b.engine.Images().List()
	if err != nil {
		return err
	}
	limit := time.Now().Add(-age)
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("cleaning: %w", context.Cause(ctx)))...)
		}
		set, err := b.engine.Images().Get(e.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went with another name
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !older(set, limit) || !matches(e, set, filter) {
			continue
		}
		if _, err := b.engine.Images().Delete(e.Name, localimage.DeleteOptions{Force: true}); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// older reports whether every image of a set was made before a time. An image that does not say when it was made has no age.
func older(set localimage.Set, limit time.Time) bool {
	for _, built := range set.Images {
		if built.Created.IsZero() || !built.Created.Before(limit) {
			return false
		}
	}
	return true
}

func matches(e localimage.Entry, set localimage.Set, filter map[string]map[string]bool) bool {
	if patterns := filter["reference"]; len(patterns) > 0 && !matchesAny(e, patterns) {
		return false
	}
	if want := filter["dangling"]; len(want) > 0 && !want[fmt.Sprint(!e.Named())] {
		return false
	}
	for label := range filter["label"] {
		if !hasLabel(set, label) {
			return false
		}
	}
	return true
}

// matchesAny compares a name as docker images --filter reference does: a pattern without a tag means every tag.
func matchesAny(e localimage.Entry, patterns map[string]bool) bool {
	familiar := localimage.Familiar(e.Name)
	repository := familiar
	if i := strings.LastIndex(familiar, ":"); i > strings.LastIndex(familiar, "/") {
		repository = familiar[:i]
	}
	for p := range patterns {
		for _, name := range []string{familiar, repository, e.Name} {
			if ok, err := path.Match(p, name); ok && err == nil {
				return true
			}
		}
		if n, err := localimage.Normalize(p); err == nil && n == e.Name {
			return true
		}
	}
	return false
}

func hasLabel(set localimage.Set, label string) bool {
	name, value, exact := strings.Cut(label, "=")
	for _, built := range set.Images {
		f, err := decode(built)
		if err != nil {
			return false
		}
		got, ok := f.Config.Labels[name]
		if !ok || exact && got != value {
			return false
		}
	}
	return true
}
