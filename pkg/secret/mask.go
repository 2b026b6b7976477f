package secret

import (
	"bytes"
	"io"
	"slices"
)

// Mask replaces secrets in a stream by a placeholder on its way to another writer. What may be the beginning of a secret is held back until more
// comes, or Flush is called. It is not safe for concurrent use.
type Mask struct {
	w io.Writer
	// parts are what is replaced, the longest first.
	parts [][]byte
	held  []byte
}

// NewMask returns a Mask for the lines of values that have MinSearched bytes or more.
func NewMask(w io.Writer, values ...Value) *Mask {
	m := &Mask{w: w}
	for _, v := range values {
		m.parts = append(m.parts, v.lines()...)
	}
	slices.SortFunc(m.parts, func(a, b []byte) int { return len(b) - len(a) })
	return m
}

// Write implements io.Writer.
func (m *Mask) Write(p []byte) (int, error) {
	if len(m.parts) == 0 {
		return m.w.Write(p)
	}
	if err := m.put(append(m.held, p...), false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what is held back: nothing more comes.
func (m *Mask) Flush() error { return m.put(m.held, true) }

// put writes data with the secrets replaced, but for the end of it that more data may make a secret.
func (m *Mask) put(data []byte, last bool) error {
	var out []byte
	m.held = nil
	for len(data) > 0 {
		at, part := m.first(data)
		hold := len(data)
		if !last {
			hold -= m.begun(data)
		}
		if part == nil || hold <= at {
			out, m.held = append(out, data[:hold]...), bytes.Clone(data[hold:])
			break
		}
		out = append(append(out, data[:at]...), placeholder...)
		data = data[at+len(part):]
	}
	if len(out) == 0 {
		return nil
	}
	_, err := m.w.Write(out)
	return err
}

// first finds the secret that begins first, and of several the longest.
func (m *Mask) first(data []byte) (at int, part []byte) {
	for _, p := range m.parts {
		if i := bytes.Index(data, p); i >= 0 && (part == nil || i < at) {
			at, part = i, p
		}
	}
	return at, part
}

// begun is the length of the longest end of data with which a secret begins.
func (m *Mask) begun(data []byte) int {
	for n := min(len(data), len(m.parts[0])-1); n > 0; n-- {
		end := data[len(data)-n:]
		if slices.ContainsFunc(m.parts, func(part []byte) bool { return len(part) > n && bytes.HasPrefix(part, end) }) {
			return n
		}
	}
	return 0
}
