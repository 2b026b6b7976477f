package ptrace_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/executor/exectest"
)

// A process whose maker is killed while it makes it goes on, and ends: whoever reads from it sees the end.
func TestOrphans(t *testing.T) {
	spec := exectest.Shell(exectest.Root(t), `
		mkfifo /p; i=0
		while [ $i -lt 100 ]; do
			i=$((i + 1))
			(read p </p; kill -9 $p) & sh -c 'echo $$ >/p; while :; do (:); done' | cat
			wait
		done; echo done`)
	var out strings.Builder
	spec.Process.Stdout = &out
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := newExecutor(t).Run(ctx, spec); err != nil || out.String() != "done\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
