package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// Change is one input that is not what it was when the step at the same place was last recorded.
type Change struct {
	// Name is the input's; of a repeated name, Index counts from 0.
	Name  string
	Index int
	// Was and Is tell what happened: an input that is only in the earlier key was removed, one only in the later added.
	Was, Is bool
	// Value is the input's present value; "" if it was removed. Earlier values are not kept, only their digests.
	Value string
}

// positionDocument is what was last recorded at a place. Digests are bare hex, so that they keep nothing alive in the store.
type positionDocument struct {
	Kind   string        `json:"kind"`
	Inputs []inputDigest `json:"inputs"`
}

type inputDigest struct {
	Name string `json:"name"`
	Sum  string `json:"sum"`
}

func sumValue(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:])
}

// position is the key of what is kept about a place.
func (c *Cache) position(p Place) string {
	return fmt.Sprintf("%s\x00%s\x00%s\x00%d", c.build.Project, p.Platform, p.Stage, p.Number)
}

// putPosition remembers the inputs of a key that has a place.
func (c *Cache) putPosition(k Key) error {
	if k.place.IsZero() {
		return nil
	}
	doc := positionDocument{Kind: k.kind}
	for _, in := range k.Inputs() {
		doc.Inputs = append(doc.Inputs, inputDigest{in.Name, sumValue(in.Value)})
	}
	data, err := json.Marshal(doc)
	if err == nil {
		err = c.store.PutRecord(positionsBucket, c.position(k.place), data)
	}
	if err != nil {
		return fmt.Errorf("recording the inputs of step %q: %w", k.place.Name, err)
	}
	return nil
}

// Explain says why k missed: the inputs by which it differs from the key that was last recorded at its place. known is false if nothing was,
// or if another kind of step stood there.
func (c *Cache) Explain(k Key) (changes []Change, known bool, err error) {
	data, err := c.store.Record(positionsBucket, c.position(k.place))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("explaining step %q: %w", k.place.Name, err)
	}
	var doc positionDocument
	if json.Unmarshal(data, &doc) != nil || doc.Kind != k.kind {
		return nil, false, nil
	}
	return compareInputs(doc.Inputs, k.Inputs()), true, nil
}

// compareInputs pairs inputs by name and, within a name, by order: first the present ones, then those removed.
func compareInputs(was []inputDigest, is []Input) []Change {
	before := map[string][]string{}
	for _, in := range was {
		before[in.Name] = append(before[in.Name], in.Sum)
	}
	seen := map[string]int{}
	var changes []Change
	for _, in := range is {
		i := seen[in.Name]
		seen[in.Name]++
		sums := before[in.Name]
		if i >= len(sums) {
			changes = append(changes, Change{Name: in.Name, Index: i, Is: true, Value: in.Value})
		} else if sums[i] != sumValue(in.Value) {
			changes = append(changes, Change{Name: in.Name, Index: i, Was: true, Is: true, Value: in.Value})
		}
	}
	counted := map[string]int{}
	for _, in := range was {
		i := counted[in.Name]
		counted[in.Name]++
		if i >= seen[in.Name] {
			changes = append(changes, Change{Name: in.Name, Index: i, Was: true})
		}
	}
	return changes
}
