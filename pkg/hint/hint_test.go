package hint_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/cairn-build/cairn/pkg/hint"
)

func TestOf(t *testing.T) {
	for _, tc := range []struct {
		name       string
		err        error
		what, hint string
	}{
		{"none", io.EOF, "EOF", ""},
		{"empty", hint.With(io.EOF, ""), "EOF", ""},
		{"wrapped", fmt.Errorf("a: %w, b", hint.With(io.EOF, "c (d)")), "a: EOF, b", "c (d)"},
		{"text", errors.New(hint.Text("a", "c (d) (e)") + "; b"), "a; b", "c (d) (e)"},
		{"one that is not closed", errors.New("a (hint: b (c)"), "a (hint: b (c)", ""},
		{"two", errors.Join(hint.With(io.EOF, "a"), hint.With(io.EOF, "b")), "EOF\nEOF (hint: b)", "a"},
	} {
		if what, h := hint.Of(tc.err); what != tc.what || h != tc.hint {
			t.Errorf("%s: %q, %q", tc.name, what, h)
		}
	}
	if !errors.Is(hint.With(io.EOF, "a"), io.EOF) || hint.With(nil, "a") != nil {
		t.Error("the error is not the one that was given")
	}
}
