package main

import (
	"slices"
	"testing"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/plan"
)

// TestTerminalType: on a terminal TERM is xterm, unless the image or the command line says another; without one nothing is said.
func TestTerminalType(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		terminal   bool
		image, env []string
		want       []string
	}{
		{terminal: true, image: []string{"A=1"}, want: []string{"TERM=xterm", "A=1"}},
		{terminal: true, image: []string{"TERM=dumb"}, want: []string{"TERM=dumb"}},
		{terminal: true, image: []string{"TERM=dumb"}, env: []string{"TERM=vt100"}, want: []string{"TERM=vt100"}},
		{image: []string{"A=1"}, want: []string{"A=1"}},
	} {
		var img plan.ResolvedImage
		img.Config.Config.Env, img.Config.Config.Cmd = tc.image, []string{"sh"}
		var p executor.Process
		if err := complete(&p, img, &runRequest{terminal: tc.terminal, env: tc.env}); err != nil || !slices.Equal(p.Env, tc.want) {
			t.Errorf("%+v: %q, %v", tc, p.Env, err)
		}
	}
}
