package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// memory is what is remembered of a step so that a later miss can be explained: its inputs without their values. Digests are cut and bare hex, so
// that they keep nothing alive in the store.
type memory struct {
	Platform string        `json:"platform,omitempty"`
	Stage    string        `json:"stage"`
	Number   int           `json:"number"`
	Kind     string        `json:"kind"`
	Inputs   []inputMemory `json:"inputs"`
	// Notes are kept with their values: references of base images.
	Notes []Input `json:"notes,omitempty"`
	// Files are the packed files of a COPY; nil if there are too many.
	Files []byte `json:"files,omitempty"`
}

// inputMemory is one input. Label is the part of the value before "=" where it is the name of a variable.
type inputMemory struct {
	Name  string `json:"name"`
	Label string `json:"label,omitempty"`
	Sum   string `json:"sum"`
}

// Bounds on what is remembered of one COPY.
const (
	maxFiles = 20_000
	// maxCompared is how many files there may be now for them to be compared with those that are remembered.
	maxCompared    = 5 * maxFiles
	maxPackedFiles = 1 << 20
)

func sumValue(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:8])
}

// labelOf is the name of the variable in an input of the environment. Names are in the Dockerfile for all to see; values may not be.
func labelOf(in Input) string {
	if in.Name != "env" && in.Name != "host" && in.Name != "ulimit" {
		return ""
	}
	label, _, _ := strings.Cut(in.Value, "=")
	return label
}

// memoryOf is what is remembered of a key.
func memoryOf(k Key) memory {
	m := memory{Platform: k.place.Platform, Stage: k.place.Stage, Number: k.place.Number, Kind: k.kind, Notes: k.notes}
	for _, in := range k.Inputs() {
		m.Inputs = append(m.Inputs, inputMemory{in.Name, labelOf(in), sumValue(in.Value)})
	}
	if k.files != nil {
		if files, ok := k.files(maxFiles); ok {
			m.Files = packFiles(files)
		}
	}
	return m
}

// packFiles encodes files sorted by name: bytes shared with the name before, rest of the name, sum; compressed.
func packFiles(files []File) []byte {
	if len(files) > maxFiles {
		return nil
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	var out []byte
	prev := ""
	for _, f := range files {
		shared := 0
		for shared < min(len(prev), len(f.Name)) && prev[shared] == f.Name[shared] {
			shared++
		}
		out = binary.AppendUvarint(out, uint64(shared))
		out = binary.AppendUvarint(out, uint64(len(f.Name)-shared))
		out = append(append(out, f.Name[shared:]...), f.Sum[:]...)
		prev = f.Name
	}
	packed, err := compress(out)
	if err != nil || len(packed) > maxPackedFiles {
		return nil
	}
	return packed
}

// unpackFiles decodes what packFiles wrote.
func unpackFiles(packed []byte) ([]File, error) {
	data, err := decompress(packed, maxUnpacked)
	if err != nil {
		return nil, err
	}
	d := decoder{data: data}
	var out []File
	prev := ""
	for len(d.data) > 0 && d.err == nil {
		shared := d.uvarint()
		rest := d.bytes(d.uvarint())
		sum := d.bytes(8)
		if d.err != nil || shared > uint64(len(prev)) || len(out) == maxFiles {
			return nil, errMalformed
		}
		prev = prev[:shared] + string(rest)
		out = append(out, File{Name: prev, Sum: [8]byte(sum)})
	}
	return out, d.err
}

// position is the key of what is kept about a place.
func (c *Cache) position(p Place) string {
	return fmt.Sprintf("%s\x00%s\x00%s\x00%d", c.build.Project, p.Platform, p.Stage, p.Number)
}

// remember keeps the inputs of a key that has a place.
func (c *Cache) remember(k Key) error {
	if k.place.IsZero() {
		return nil
	}
	data, err := json.Marshal(memoryOf(k))
	if err == nil {
		position := c.position(k.place)
		c.former.keep(position, func() ([]byte, error) { return c.store.Record(positionsBucket, position) })
		err = c.store.PutCacheRecord(positionsBucket, position, data)
	}
	if err != nil {
		return fmt.Errorf("recording the inputs of step %q: %w", k.place.Name, err)
	}
	return nil
}

// former holds what was remembered of the places that one build has come to, before it did: what it remembers itself explains nothing to it.
type former struct {
	mu      sync.Mutex
	records map[string][]byte // by position, nil for nothing
}

func newFormer() *former { return &former{records: map[string][]byte{}} }

// keep reads what is remembered of a position, once.
func (f *former) keep(position string, read func() ([]byte, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.records[position]; ok {
		return
	}
	data, err := read()
	if err != nil {
		data = nil
	}
	f.records[position] = data
}

// get returns what was remembered of a position. ok is false where the build has not come to it yet.
func (f *former) get(position string) (data []byte, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, ok = f.records[position]
	return data, ok
}

// near is how many steps before and after a place are looked at: a line more or less moves the others.
const near = 4

// memories returns what builds before this one have remembered of a place and of those around it.
func (c *Cache) memories(p Place) (out []memory) {
	number := p.Number
	for p.Number = max(0, number-near); p.Number <= number+near; p.Number++ {
		data, known := c.former.get(c.position(p))
		if !known {
			data, _ = c.store.Record(positionsBucket, c.position(p)) // which may not be there
		}
		var m memory
		if data != nil && json.Unmarshal(data, &m) == nil {
			out = append(out, m)
		}
	}
	return out
}
