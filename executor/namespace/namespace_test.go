package namespace

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/exectest"
	"github.com/cairn-build/cairn/pkg/userns"
	"github.com/cairn-build/cairn/test/people"
)

// strangerID is a uid that no passwd file and no sub-id range knows.
const strangerID = 61235

// testProgram runs all tests as root, as a user with sub-ids, and as one without, for whom there is one id and others are imitated.
func testProgram() exectest.Program {
	return exectest.Program{
		New: func(dir string) (executor.Executor, error) { return New(Options{Dir: dir}) },
		People: func() ([]people.Person, error) {
			u, err := people.Unprivileged()
			return []people.Person{people.Root(), u, people.Stranger(strangerID)}, err
		},
	}
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
		if n := strings.Count(string(mounts), e.dir); n > 1 {
			t.Errorf("%d mounts, want one:\n%s", n, mounts)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(e.dir, "*")); len(left) != 0 {
			t.Errorf("left in the executor's directory: %v", left)
		}
	})
	return e
}

func TestSuite(t *testing.T) {
	if mode, _ := userns.Current(); mode.Map == userns.SingleID {
		// /proc shows who the kernel takes a process for, with no_new_privs and the filter by which others are imitated.
		exectest.Suite(t, newExecutor, "Capabilities", "Insecure")
		return
	}
	exectest.Suite(t, newExecutor)
}

// kill -9 of the builder leaves no process of a RUN, no mount, and nothing on disk.
func TestKillLeavesNothing(t *testing.T) {
	dir := testProgram().KillLeavesNothing(t)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left on disk: %v, %v", left, err)
	}
}

// Over an overlay, as builds use it, a run that writes nothing leaves an upper directory in which nothing is new.
func TestOverlay(t *testing.T) {
	e := newExecutor(t)
	lower, dir := exectest.Root(t), t.TempDir()
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(dir, "merged")
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work,userxattr", lower, dir, dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, data); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	if err := e.Run(t.Context(), exectest.Shell(merged, "cat /etc/hosts /etc/resolv.conf >/dev/null")); err != nil {
		t.Fatal(err)
	}
	// The directories that mount points were made in have been copied up; they are equal to the ones below.
	left, err := exec.Command("find", filepath.Join(dir, "upper"), "-mindepth", "1").Output()
	if err != nil || strings.TrimSpace(string(left)) != filepath.Join(dir, "upper", "etc") {
		t.Errorf("upper directory: %s, %v", left, err)
	}
	for _, d := range []string{".", "etc"} {
		up, err := os.Stat(filepath.Join(dir, "upper", d))
		low, lerr := os.Stat(filepath.Join(lower, d))
		if err := errors.Join(err, lerr); err != nil {
			t.Fatal(err)
		}
		if d != "." && (!up.ModTime().Equal(low.ModTime()) || up.Mode() != low.Mode()) {
			t.Errorf("%s is %v %v, was %v %v", d, up.Mode(), up.ModTime(), low.Mode(), low.ModTime())
		}
	}
}

func BenchmarkTrue(b *testing.B) {
	e := newExecutor(b)
	root := exectest.Root(b)
	for _, network := range []executor.NetworkMode{executor.NetworkDefault, executor.NetworkNone} {
		b.Run("network="+string(network), func(b *testing.B) {
			for b.Loop() {
				spec := exectest.Shell(root, "true")
				spec.Network = network
				if err := e.Run(b.Context(), spec); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
