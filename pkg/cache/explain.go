package cache

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Change is one input that is not what it was when the step was last recorded.
type Change struct {
	// Name is the input's, Label what tells it from others of that name: a variable.
	Name, Label string
	// Was and Is tell what happened: an input that is only in the earlier key was removed, one only in the later added.
	Was, Is bool
	// Before and After are the values, of notes only: of other inputs just digests are kept.
	Before, After string
	// Files are the files that make "content" another one, if they are known.
	Files []FileChange
}

// FileChange is one file of a COPY.
type FileChange struct {
	Name    string
	Was, Is bool
}

// Reason says why a step missed.
type Reason struct {
	// Known is false if no such step was ever recorded where it stands.
	Known bool
	// Changes are the differences from the nearest record. None means that the record is gone, or what it named.
	Changes []Change
}

// Explain says why k missed: the inputs by which it differs from the nearest record of this cache.
func (c *Cache) Explain(_ context.Context, k Key) Reason {
	return explain(k, c.memories(k.place))
}

// Explain is the same with the records of the imports.
func (im *Imports) Explain(ctx context.Context, k Key) Reason {
	candidates := im.local.memories(k.place)
	im.each(func(i *Import) bool {
		candidates = append(candidates, i.memories(ctx, k.place)...)
		return false
	})
	return explain(k, candidates)
}

// explain compares k with the candidate that has the fewest differences, of equals the one that stood nearest, of those the first.
func explain(k Key, candidates []memory) Reason {
	var best Reason
	distance := 0
	for _, m := range candidates {
		if m.Kind != k.kind {
			continue
		}
		changes := compare(m, k)
		away := max(m.Number-k.place.Number, k.place.Number-m.Number)
		if !best.Known || cmp.Or(cmp.Compare(len(changes), len(best.Changes)), cmp.Compare(away, distance)) < 0 {
			best, distance = Reason{Known: true, Changes: changes}, away
		}
	}
	return best
}

// compare pairs inputs by name and label. Within a name without labels the whole list counts as one input.
func compare(m memory, k Key) []Change {
	type id struct{ name, label string }
	was, is := map[id][]string{}, map[id][]string{}
	var order []id
	add := func(to map[id][]string, i id, sum string) {
		if was[i] == nil && is[i] == nil {
			order = append(order, i)
		}
		to[i] = append(to[i], sum)
	}
	for _, in := range k.Inputs() {
		add(is, id{in.Name, labelOf(in)}, sumValue(in.Value))
	}
	for _, in := range m.Inputs {
		add(was, id{in.Name, in.Label}, in.Sum)
	}
	var changes []Change
	for _, i := range order {
		if slices.Equal(was[i], is[i]) {
			continue
		}
		c := Change{Name: i.name, Label: i.label, Was: was[i] != nil, Is: is[i] != nil}
		if i.name == "content" && c.Was && c.Is {
			c.Files = compareFiles(m.Files, k)
		}
		if i.name == "root" {
			c = rootChange(c, m, k)
		}
		changes = append(changes, c)
	}
	return changes
}

// rootChange explains another root filesystem by another base, if that is it.
func rootChange(c Change, m memory, k Key) Change {
	for _, is := range k.notes {
		for _, was := range m.Notes {
			if is.Name == was.Name && is.Value != was.Value {
				return Change{Name: is.Name, Was: true, Is: true, Before: was.Value, After: is.Value}
			}
		}
	}
	return c
}

// compareFiles returns the files that differ; nil if it is not known.
func compareFiles(packed []byte, k Key) (out []FileChange) {
	if packed == nil || k.files == nil {
		return nil
	}
	was, err := unpackFiles(packed)
	if err != nil {
		return nil
	}
	is, ok := k.files(maxCompared)
	if !ok {
		return nil
	}
	before := map[string][8]byte{}
	for _, f := range was {
		before[f.Name] = f.Sum
	}
	for _, f := range is {
		sum, ok := before[f.Name]
		if !ok || sum != f.Sum {
			out = append(out, FileChange{Name: f.Name, Was: ok, Is: true})
		}
		delete(before, f.Name)
	}
	for name := range before {
		out = append(out, FileChange{Name: name, Was: true})
	}
	slices.SortFunc(out, func(a, b FileChange) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// maxListed is how many files are named in one line.
const maxListed = 10

// String is the change in words. The names of inputs are those that package solve gives them.
func (c Change) String() string {
	how := "changed"
	switch {
	case !c.Was:
		how = "is new"
	case !c.Is:
		how = "is gone"
	}
	switch c.Name {
	case "base image":
		return fmt.Sprintf("the base image changed: %s, was %s", c.After, c.Before)
	case "base stage":
		return fmt.Sprintf("the stage it starts from is now %s, was %s", c.After, c.Before)
	case "root":
		return "what it stands on changed: an earlier step gave another result"
	case "arg":
		return "the command changed"
	case "env":
		return fmt.Sprintf("variable %s (ENV or ARG) %s", c.Label, how)
	case "content":
		return c.files()
	case "from":
		return "the stage or image that is mounted changed"
	case "dest":
		return "the destination changed"
	case "parents", "unpack":
		return "the flags of the instruction changed"
	case "dir":
		return "the working directory changed"
	case "user", "platform", "network", "security", "path":
		return "the " + c.Name + " changed"
	case "hostname", "host", "ulimit", "shm-size":
		return fmt.Sprintf("the option %s %s", strings.TrimSpace(c.Name+" "+c.Label), how)
	}
	return fmt.Sprintf("the option %q of a mount %s", c.Name, how)
}

// files lists the files of a content that changed.
func (c Change) files() string {
	if len(c.Files) == 0 {
		return "the files it uses changed"
	}
	var list []string
	for _, f := range c.Files[:min(len(c.Files), maxListed)] {
		how := "changed"
		switch {
		case !f.Was:
			how = "is new"
		case !f.Is:
			how = "is gone"
		}
		list = append(list, fmt.Sprintf("%q %s", f.Name, how))
	}
	if more := len(c.Files) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return "file " + strings.Join(list, ", ")
}

// String is the reason in words, on one line.
func (r Reason) String() string {
	if !r.Known {
		return "no such step was recorded before"
	}
	if len(r.Changes) == 0 {
		return "nothing changed, but its record, or the layer that it names, is not to be had any more"
	}
	parts := make([]string, len(r.Changes))
	for i, c := range r.Changes {
		parts[i] = c.String()
	}
	return strings.Join(parts, "; ")
}

// memories returns what an import remembers of the steps around a place. That it cannot be had is no error: a miss is then explained by less.
func (im *Import) memories(ctx context.Context, p Place) (out []memory) {
	im.once.Do(func() {
		if im.inputs == nil {
			return
		}
		data, err := im.small(ctx, *im.inputs, maxInputsBlob)
		if err == nil {
			data, err = decompress(data, maxUnpacked)
		}
		if err != nil || json.Unmarshal(data, &im.remembered) != nil {
			im.remembered = nil
		}
	})
	for _, m := range im.remembered {
		if m.Platform == p.Platform && m.Stage == p.Stage && m.Number >= p.Number-near && m.Number <= p.Number+near {
			out = append(out, m)
		}
	}
	return out
}

// inputsBlob is what Explain needs of the steps that are exported, in the order of their keys.
func inputsBlob(used []Used, memories map[digest.Digest]memory) (blob, error) {
	list := []memory{}
	for _, u := range used {
		if m, ok := memories[u.Key.Digest()]; ok {
			list = append(list, m)
		}
	}
	data, err := json.Marshal(list)
	if err == nil {
		data, err = compress(data)
	}
	return newBlob(inputsType, data), err
}
