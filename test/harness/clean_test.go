package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLeftovers: each thing that can be left behind is seen, and is not there any more when it is gone.
func TestLeftovers(t *testing.T) {
	h := NewHome(t, Unprivileged(t))
	process := func(args ...string) func(*testing.T) func() {
		return func(t *testing.T) func() {
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = append(os.Environ(), "HOME="+h.Dir)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			return func() { stdin.Close(); _ = cmd.Wait() }
		}
	}
	unshare := []string{"unshare", "--mount"}
	if os.Getuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
	}
	copied := filepath.Join(h.Dir, "cairn-cat")
	Run(t, "cp", "/bin/cat", copied)
	for _, tc := range []struct {
		what, seen string
		leave      func(t *testing.T) (undo func())
	}{
		{"a process of the program", "process /proc/", process(copied)},
		{"a mount", "mount in /proc/", process(append(unshare, "sh", "-ec", `mount -t tmpfs t "$1"; exec cat`, "sh", h.Root)...)},
		{"an open file", "descriptor /proc/", process("sh", "-ec", `exec 7< "$1/file"; exec cat`, "sh", h.Root)},
		{"an open file that is deleted", "(deleted)", func(t *testing.T) func() {
			name := filepath.Join(h.Root, "gone")
			f, err := os.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
			return func() { f.Close() }
		}},
		{"a temporary file", "temporary " + h.Root, func(t *testing.T) func() {
			WriteFiles(t, h.Root, map[string]string{"tmp/x": ""})
			return func() { _ = os.RemoveAll(filepath.Join(h.Root, "tmp")) }
		}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			WriteFiles(t, h.Root, map[string]string{"file": "x"})
			if left := h.Leftovers(); len(left) != 0 {
				t.Fatalf("before: %q", left)
			}
			undo := tc.leave(t)
			WaitFor(t, 10*time.Second, "it is seen", func() bool { return strings.Contains(strings.Join(h.Leftovers(), "\n"), tc.seen) })
			undo()
			h.CheckClean()
		})
	}
}

// TestCgroups: a cgroup is seen that is named as a run's and has no process.
func TestCgroups(t *testing.T) {
	root := t.TempDir()
	WriteFiles(t, root, map[string]string{"pids/run-123/cgroup.procs": "", "pids/a/run-7/cgroup.procs": "1\n", "pids/run-x.scope/cgroup.procs": ""})
	if got := emptyCgroups(root); len(got) != 1 || got[0] != filepath.Join(root, "pids", "run-123") {
		t.Errorf("%q", got)
	}
}
