package secret

import (
	"bytes"
	"encoding/base64"
	"slices"
)

// MinSearched is the length in bytes from which a secret is looked for in other data. Shorter ones would be found where they are not.
const MinSearched = 8

// Forms are the byte sequences by which the secret is recognised in other data: itself, without white space at its ends, and its base64, in both
// alphabets, at each of the three places where it can stand in a longer text. There are none for what is shorter than MinSearched.
func (v Value) Forms() [][]byte {
	raw := bytes.TrimSpace(v.b)
	if len(raw) < MinSearched {
		return nil
	}
	out := [][]byte{raw}
	for skip := range 3 {
		// Only what fills whole groups of three bytes does not depend on what stands before and after.
		whole := raw[skip : len(raw)-(len(raw)-skip)%3]
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			form := []byte(enc.EncodeToString(whole))
			if !slices.ContainsFunc(out, func(o []byte) bool { return bytes.Equal(o, form) }) {
				out = append(out, form)
			}
		}
	}
	return out
}

// lines are the parts of a secret that are masked in output: programs print a secret of several lines line by line.
func (v Value) lines() (out [][]byte) {
	for _, line := range bytes.Split(v.b, []byte("\n")) {
		if line = bytes.TrimSpace(line); len(line) >= MinSearched {
			out = append(out, line)
		}
	}
	return out
}
