package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/distribution/reference"
)

// filterSet is the values of --filter by key.
type filterSet map[string][]string

// parseFilters reads KEY=VALUE filters; only the keys given are known.
func parseFilters(values []string, keys ...string) (filterSet, error) {
	out := filterSet{}
	for _, text := range values {
		key, value, ok := strings.Cut(text, "=")
		if !ok || value == "" {
			return nil, usagef("--filter %q: want KEY=VALUE", text)
		}
		if !slices.Contains(keys, key) {
			return nil, usagef("--filter %q: unknown key", text).withHint("the keys are %s", strings.Join(keys, ", "))
		}
		out[key] = append(out[key], value)
	}
	for _, text := range out["until"] {
		if _, err := parseTime(text); err != nil {
			return nil, usagef("--filter until=%s: %v", text, err)
		}
	}
	for _, text := range out["dangling"] {
		if _, err := strconv.ParseBool(text); err != nil {
			return nil, usagef("--filter dangling=%s: want true or false", text)
		}
	}
	return out, nil
}

// until is the time that --filter until=… gives, zero without one; of several the earliest.
func (f filterSet) until() time.Time {
	var t time.Time
	for _, text := range f["until"] {
		if at, err := parseTime(text); err == nil && (t.IsZero() || at.Before(t)) {
			t = at
		}
	}
	return t
}

// parseTime reads a time as Docker's filters take it: a duration before now ("24h"), a date or time of RFC 3339, with or without
// zone, or seconds since 1970.
func parseTime(text string) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		return time.UnixMicro(int64(n * 1e6)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("want a duration such as 24h, or a time such as 2006-01-02T15:04:05")
}

// imageFilter returns the test that filters make of an image: every key must fit, by one of its values, labels by all.
func imageFilter(local *image.Local, f filterSet) (func(imageRow) bool, error) {
	var before, since time.Time
	for key, at := range map[string]*time.Time{"before": &before, "since": &since} {
		for _, ref := range f[key] {
			set, err := local.Get(ref)
			if err != nil {
				return nil, noSuchImage(ref, err)
			}
			*at = set.Images[0].Created
		}
	}
	until := f.until()
	for _, pattern := range f["reference"] {
		if _, err := reference.FamiliarMatch(pattern, mustName()); err != nil {
			return nil, usagef("--filter reference=%s: %v", pattern, err)
		}
	}
	return func(r imageRow) bool {
		switch {
		case !before.IsZero() && !r.created.Before(before), !since.IsZero() && !r.created.After(since):
			return false
		case !until.IsZero() && !r.created.Before(until):
			return false
		case len(f["dangling"]) > 0 && !slices.ContainsFunc(f["dangling"], func(v string) bool { return isTrue(v) == !r.Named() }):
			return false
		case len(f["reference"]) > 0 && !slices.ContainsFunc(f["reference"], func(p string) bool { return matches(p, r) }):
			return false
		}
		return !slices.ContainsFunc(f["label"], func(l string) bool { return !hasLabel(r.labels, l) })
	}, nil
}

// isTrue reads a boolean that parseFilters has found right.
func isTrue(v string) bool {
	b, err := strconv.ParseBool(v)
	return err == nil && b
}

func mustName() reference.Reference {
	n, err := reference.ParseNormalizedNamed("name")
	if err != nil {
		panic(err) // "name" is a name
	}
	return n
}

// matches reports whether a pattern is the name of an image, with or without its tag, or matches it as a file name would be.
func matches(pattern string, r imageRow) bool {
	n, err := reference.ParseNormalizedNamed(r.Name)
	if err != nil || !r.Named() {
		return false
	}
	for _, candidate := range []reference.Named{n, reference.TrimNamed(n)} {
		if ok, err := reference.FamiliarMatch(pattern, candidate); err == nil && ok || candidate.String() == pattern {
			return true
		}
	}
	return false
}

// hasLabel reports whether there is a label KEY, or KEY=VALUE.
func hasLabel(labels map[string]string, want string) bool {
	key, value, exact := strings.Cut(want, "=")
	got, ok := labels[key]
	return ok && (!exact || got == value)
}
