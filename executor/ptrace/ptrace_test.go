package ptrace_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

func TestMain(m *testing.M) {
	if how := os.Getenv(stressVar); how != "" {
		os.Exit(stress(how))
	}
	if place := os.Getenv(busyVar); place != "" {
		os.Exit(busy(place))
	}
	testProgram().Main(m)
}

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
		// There are no namespaces in this place, a tmpfs has no bound, and no confinement can be lifted: TestRefused.
		"Namespaces", "NetworkNone", "TmpfsSize", "ShmSize", "Insecure")
}

// What cannot be had is an error that says which isolation cannot do it.
func TestRefused(t *testing.T) {
	e, root := newExecutor(t), exectest.Root(t)
	for name, change := range map[string]func(*executor.Spec){
		"network":  func(s *executor.Spec) { s.Network = executor.NetworkNone },
		"security": func(s *executor.Spec) { s.Security = executor.SecurityInsecure },
		"shm size": func(s *executor.Spec) { s.ShmSize = 1 << 20 },
		"tmpfs size": func(s *executor.Spec) {
			s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/t", Size: 1 << 20}}
		},
	} {
		spec := exectest.Shell(root, "echo ran")
		change(&spec)
		var out strings.Builder
		spec.Process.Stdout = &out
		if err := e.Run(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "--isolation=ptrace does not have") || out.Len() > 0 {
			t.Errorf("%s: %q, %v", name, out.String(), err)
		}
	}
}

// What was no link and has become one is read as one, also below a directory that was moved.
func TestReadlink(t *testing.T) {
	e, root := newExecutor(t), exectest.Root(t)
	spec := exectest.Shell(root, `
		ask() { readlink /d; readlink /d/in; readlink /d/../d/in; readlink /d/in/; }
		mkdir /d; touch /d/in; ask; ask
		echo 1; mv /d /e; ln -s /e /d; ask
		echo 2; rm /d; mkdir /d; ln -s /x /d/in; ask
		echo 3; rm /d/in; touch /d/in; ask; mv /d /e2; mv /e /d; ask
		echo 4; ln -s /y /new; mv /new /d/in; ask`)
	var out strings.Builder
	spec.Process.Stdout = &out
	if err := e.Run(t.Context(), spec); err != nil && !strings.Contains(err.Error(), "exit code: 1") {
		t.Fatal(err)
	}
	if got, want := strings.Join(strings.Fields(out.String()), " "), "1 /e 2 /x /x 3 4 /y /y"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// The supervisor's timers may be late, those of a step are as the builder's.
func TestTimers(t *testing.T) {
	e := newExecutor(t)
	spec := exectest.Shell(exectest.Root(t), "cat /proc/self/timerslack_ns")
	var out strings.Builder
	spec.Process.Stdout = &out
	if err := e.Run(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintln(own); out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// Links lead where they do in a container: into mounts, out of them, and never above the root.
func TestPaths(t *testing.T) {
	e, root := newExecutor(t), exectest.Root(t)
	spec := exectest.Shell(root, `
		mkdir -p /d/e; echo file > /d/f; ln -s /dev/shm /shm; ln -s ../../../d/f /d/e/up; ln -s /d/e /l; ln -s loop /loop; ln -s /nowhere /dangling
		echo shm > /shm/x; cat /dev/shm/x /shm/x /shm/../shm/x /l/../f /d/e/../f /d/e/up /l/up /../../d/f
		[ -e /dev/f ] && echo wrong; [ -c /d/../dev/null ] && echo null
		for p in /loop /dangling /d/f/ /d/f/x /d/no/../f; do cat $p 2>/dev/null && echo wrong; done
		ls -d /l /l/; echo made > /dangling; cat /nowhere`)
	var out strings.Builder
	spec.Process.Stdout = &out
	if err := e.Run(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(strings.Fields(out.String()), " "), "shm shm shm file file file file file null /l /l/ made"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
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
