package ptrace_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/exectest"
	"github.com/cairn-build/cairn/executor/ptrace"
)

// placeVar is set in the test binary that has been started again as somebody without any right.
const placeVar = "PTRACE_TEST_PLACE"

// strangerID is a uid that no passwd file and no sub-id range knows.
const strangerID = 61234

// TestMain runs all tests as a user without name, capability or the chance of new privileges, wherever they are started.
func TestMain(m *testing.M) {
	if os.Getenv(placeVar) == "" && os.Getuid() == 0 {
		os.Exit(runAsStranger())
	}
	os.Exit(m.Run())
}

func runAsStranger() int {
	dir, err := os.MkdirTemp("/tmp", "ptrace-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	b, err := os.ReadFile("/proc/self/exe")
	exe := filepath.Join(dir, "ptrace.test")
	err = errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(exe, b, 0o755), os.Chmod(exe, 0o755), os.Chown(dir, strangerID, strangerID))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Go's list of what the test depends on lies where the user may not write; without it the result is not cached.
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return strings.HasPrefix(a, "-test.testlogfile=") })
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), placeVar+"=stranger", "HOME=/nonexistent", "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: strangerID, Gid: strangerID}}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
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
