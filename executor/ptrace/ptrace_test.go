package ptrace_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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
	if os.Getenv(helperVar) != "" {
		os.Exit(helperSleep())
	}
	os.Exit(m.Run())
}

// helperVar makes this test binary run helperSleep, over "directory:root".
const helperVar = "PTRACE_TEST_SLEEP"

// helperSleep runs processes without end, for TestKillLeavesNothing.
func helperSleep() int {
	dir, root, _ := strings.Cut(os.Getenv(helperVar), ":")
	e, err := ptrace.New(ptrace.Options{Dir: dir})
	if err == nil {
		spec := exectest.Shell(root, "sleep 1357 & setsid sleep 1357 & echo ready; wait")
		spec.Process.Stdout = os.Stdout
		err = e.Run(context.Background(), spec)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
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

// kill -9 of the builder, at once and as a whole, leaves no process of a RUN.
func TestKillLeavesNothing(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVar+"="+t.TempDir()+":"+exectest.Root(t))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	sleeping := func() (pids []string) {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.HasPrefix(string(b), "sleep\x001357") {
				pids = append(pids, f)
			}
		}
		return pids
	}
	for i := 0; len(sleeping()) < 2; i++ {
		if i == 1000 {
			t.Fatal("nothing sleeps")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for i := 0; len(sleeping()) != 0; i++ {
		if i == 1000 {
			t.Fatalf("STILL RUNNING: %v", sleeping())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
