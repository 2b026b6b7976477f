package ptrace_test

import (
	"os"
	"testing"

	"github.com/cairn-build/cairn/executor/exectest"
)

// TestScript runs the script in PTRACE_SCRIPT over the root filesystem in PTRACE_ROOT.
func TestScript(t *testing.T) {
	root := os.Getenv("PTRACE_ROOT")
	if root == "" {
		t.Skip()
	}
	spec := exectest.Shell(root, os.Getenv("PTRACE_SCRIPT"))
	spec.Process.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}
	spec.Process.Stdout, spec.Process.Stderr = os.Stdout, os.Stderr
	if err := newExecutor(t).Run(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
}
