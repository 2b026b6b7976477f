package secret

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestForms: a secret is recognised wherever it stands in a base64 text.
func TestForms(t *testing.T) {
	for _, text := range []string{"12345678", "hunter2-and-more", "\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7", "  padded value \n"} {
		forms := New([]byte(text)).Forms()
		for before := range 7 {
			for after := range 7 {
				plain := strings.Repeat("<", before) + strings.TrimSpace(text) + strings.Repeat(">", after)
				for _, in := range []string{plain, base64.StdEncoding.EncodeToString([]byte(plain)), base64.RawURLEncoding.EncodeToString([]byte(plain))} {
					found := false
					for _, f := range forms {
						found = found || bytes.Contains([]byte(in), f)
					}
					if !found {
						t.Errorf("%q is not found in %q", text, in)
					}
				}
			}
		}
	}
	if f := New([]byte("1234567\n")).Forms(); f != nil {
		t.Errorf("a short secret has the forms %q", f)
	}
}

// TestMask writes the same text in pieces of every kind.
func TestMask(t *testing.T) {
	values := []Value{New([]byte("correct-horse")), New([]byte("correct-horse-battery")), New([]byte("first line\nshort\nthird line\n")), New([]byte("tiny"))}
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{"nothing to see, tiny\n", "nothing to see, tiny\n"},
		{"a correct-horse b", "a [secret] b"},
		{"correct-horse-battery", "[secret]"},
		{"correct-horse-battercorrect-horse", "[secret]-batter[secret]"},
		{"correct-hors", "correct-hors"},
		{"correct-correct-horse\n", "correct-[secret]\n"},
		{"first line\nshort\nthird line\n", "[secret]\nshort\n[secret]\n"},
		{"first line\r\n", "[secret]\r\n"},
	} {
		for round := range 200 {
			var out bytes.Buffer
			m := NewMask(&out, values...)
			for rest := tc.in; rest != ""; {
				n := len(rest)
				if round > 0 {
					n = 1 + rand.IntN(min(len(rest), round))
				}
				if _, err := m.Write([]byte(rest[:n])); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := m.Flush(); err != nil {
				t.Fatal(err)
			}
			if out.String() != tc.want {
				t.Fatalf("%q became %q, want %q", tc.in, out.String(), tc.want)
			}
		}
	}
}
