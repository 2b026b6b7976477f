package namespace

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func TestOverlay(t *testing.T) { exectest.Overlay(t, newExecutor(t)) }

func BenchmarkTrue(b *testing.B) { exectest.Benchmark(b, newExecutor(b)) }
