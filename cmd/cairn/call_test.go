package main

import (
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/build"
)

func TestParseCall(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text  string
		check bool
		want  callRequest
		fails string
	}{
		{text: "", want: callRequest{}},
		{text: "build", want: callRequest{}},
		{check: true, want: callRequest{of: build.CallCheck}},
		{text: "check", check: true, want: callRequest{of: build.CallCheck}},
		{text: "check", want: callRequest{of: build.CallCheck}},
		{text: "outline,format=json", want: callRequest{of: build.CallOutline, json: true}},
		{text: "targets,format=text", want: callRequest{of: build.CallTargets}},
		{text: "outline", check: true, fails: "ask for different things"},
		{text: "lint", fails: `"lint": unknown call`},
		{text: "check,format=yaml", fails: `unknown attribute "format=yaml"`},
		{text: "check,", fails: `unknown attribute ""`},
		{text: "build,format=json", fails: "a build has no format"},
	} {
		t.Run(tc.text, func(t *testing.T) {
			t.Parallel()
			got, err := parseCall(tc.text, tc.check)
			switch {
			case tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)):
				t.Errorf("error %v, want %q", err, tc.fails)
			case tc.fails == "" && err != nil:
				t.Error(err)
			case tc.fails == "" && got != tc.want:
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}
