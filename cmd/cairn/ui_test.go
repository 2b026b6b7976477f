package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/registry"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain ünïcode":      "plain ünïcode",
		"tab\tstays":         "tab\tstays",
		"\x1b]0;title\x07":   `\x1b]0;title\x07`,
		"\x1b[2J":            `\x1b[2J`,
		"bell\a\rreturn":     `bell\x07\x0dreturn`,
		"bidi \u202e over":   `bidi \u202e over`,
		"c1 \u009b31m":       `c1 \u009b31m`,
		"bytes \xff\xfe":     `bytes \xff\xfe`,
		"delete \x7f":        `delete \x7f`,
		"zero width \u200b.": `zero width \u200b.`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"nothing", nil, 0, ""},
		{"failed", errors.New("no luck"), 1, "cairn: no luck\n"},
		{"usage", usagef("bad flag"), 2, "cairn: bad flag\n"},
		{"usage with hint", fmt.Errorf("reading: %w", usagef("bad flag").withHint("good flag")), 2, "cairn: reading: bad flag\ncairn: hint: good flag\n"},
		{"hint from below", fmt.Errorf("x: %w", &registry.Error{Op: "pushing", Ref: "y", Hint: "log in"}), 1, "cairn: x: pushing y\ncairn: hint: log in\n"},
		{"hint of a Dockerfile", &dockerfile.Error{Location: dockerfile.Location{File: "F", First: 3}, Err: errors.New("bad"), Hint: "did you mean good?"}, 1,
			"cairn: F:3: bad\ncairn: hint: did you mean good?\n"},
		{"hint in the text", errors.New("a: b (hint: did you mean c?)"), 1, "cairn: a: b\ncairn: hint: did you mean c?\n"},
		{"several lines", errors.New("one\ntwo\x1b[2J"), 1, "cairn: one; two\\x1b[2J\n"},
		{"signal", fmt.Errorf("building: %w", signalled{syscall.SIGTERM}), 143, "cairn: stopped by terminated\n"},
		{"command", fmt.Errorf("running: %w", exited{42}), 42, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			if code := report(&b, tc.err); code != tc.code || b.String() != tc.want {
				t.Errorf("code %d and %q, want %d and %q", code, b.String(), tc.code, tc.want)
			}
		})
	}
}
