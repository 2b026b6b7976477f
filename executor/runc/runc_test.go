package runc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runc/libcontainer/seccomp"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/exectest"
)

func testProgram() exectest.Program {
	return exectest.Program{New: func(dir string) (executor.Executor, error) { return New(Options{Dir: dir}) }}
}

func TestMain(m *testing.M) { testProgram().Main(m) }

func newExecutor(t testing.TB) executor.Executor {
	t.Helper()
	e, err := New(Options{Dir: filepath.Join(t.TempDir(), "state")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mounts, _ := os.ReadFile("/proc/self/mounts")
		if n := strings.Count(string(mounts), e.dir); n != 1 {
			t.Errorf("%d mounts, want one:\n%s", n, mounts)
		}
		if left, _ := filepath.Glob(filepath.Join(e.dir, "*")); len(left) != 0 {
			t.Errorf("left in the executor's directory: %v", left)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestSuite(t *testing.T) {
	if !seccomp.Enabled {
		t.Skip("built without seccomp: see TestNeverUnfiltered")
	}
	exectest.Suite(t, newExecutor)
}

// Without libseccomp a process does not run unfiltered: it does not run.
func TestNeverUnfiltered(t *testing.T) {
	err := newExecutor(t).Run(t.Context(), exectest.Shell(exectest.Root(t), "true"))
	if seccomp.Enabled != (err == nil) || (err != nil && !strings.Contains(err.Error(), "-tags seccomp")) {
		t.Errorf("seccomp built in: %t, error: %v", seccomp.Enabled, err)
	}
}

// kill -9 of the builder leaves no process of a RUN, no mount, and nothing on disk.
func TestKillLeavesNothing(t *testing.T) {
	dir := testProgram().KillLeavesNothing(t)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left on disk: %v, %v", left, err)
	}
}

func TestOverlay(t *testing.T) { exectest.Overlay(t, newExecutor(t)) }

func BenchmarkTrue(b *testing.B) { exectest.Benchmark(b, newExecutor(b)) }
