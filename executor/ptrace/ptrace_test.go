package ptrace_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/exectest"
	"github.com/cairn-build/cairn/executor/ptrace"
	"github.com/cairn-build/cairn/test/people"
)

// strangerID is a uid that no passwd file and no sub-id range knows.
const strangerID = 61234

// testProgram runs all tests as a user without name, capability or the chance of new privileges, wherever they are started.
func testProgram() exectest.Program {
	return exectest.Program{
		New:     func(dir string) (executor.Executor, error) { return ptrace.New(ptrace.Options{Dir: dir}) },
		People:  func() ([]people.Person, error) { return []people.Person{people.Stranger(strangerID)}, nil },
		Outside: true,
	}
}

func TestMain(m *testing.M) { testProgram().Main(m) }

func newExecutor(t testing.TB) executor.Executor {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	e, err := ptrace.New(ptrace.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, _ := filepath.Glob(filepath.Join(dir, "run-*")); len(left) != 0 {
			t.Errorf("left in the executor's directory: %v", left)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestSuite(t *testing.T) {
	exectest.Suite(t, newExecutor,
		// There are no namespaces in this place, nothing can be masked, and nothing lifted.
		"Namespaces", "NetworkNone", "Protected", "Insecure",
		// Not done yet, which is why no ladder chooses this executor.
		"Concurrent", "Dev", "ExitCodes", "Mounts", "Terminal", "Umask")
}

func TestSmoke(t *testing.T) {
	e := newExecutor(t)
	spec := exectest.Shell(exectest.Root(t), "echo hello; id; ls -l /; pwd")
	spec.Process.Stdout, spec.Process.Stderr = os.Stdout, os.Stderr
	if err := e.Run(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
}

// kill -9 of the builder, at once and as a whole, leaves no process of a RUN.
func TestKillLeavesNothing(t *testing.T) { testProgram().KillLeavesNothing(t) }
