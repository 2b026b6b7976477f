package namespace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/exectest"
	"github.com/cairn-build/cairn/pkg/userns"
)

// placeVar names the place in which this test binary has been started again.
const placeVar = "NAMESPACE_TEST_PLACE"

// helperVar makes this test binary run helperSleep, over "directory:root".
const helperVar = "NAMESPACE_TEST_SLEEP"

const testUser = "cairn-test"

// TestMain runs all tests twice: as root, and as an ordinary user with sub-ids (who is made if need be). Each time
// inside the place that userns.Enter makes, as the program itself works.
func TestMain(m *testing.M) {
	if os.Getenv(placeVar) == "" && os.Getuid() == 0 {
		os.Exit(runEverywhere())
	}
	done, code, err := userns.Enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if done {
		os.Exit(code)
	}
	if os.Getenv(helperVar) != "" {
		os.Exit(helperSleep())
	}
	os.Exit(m.Run())
}

// helperSleep runs a process without end, for TestKillLeavesNothing.
func helperSleep() int {
	dir, root, _ := strings.Cut(os.Getenv(helperVar), ":")
	e, err := New(Options{Dir: dir})
	if err == nil {
		spec := exectest.Shell(root, "sleep 1000 & setsid sleep 1000 & echo ready; wait")
		spec.Process.Stdout = os.Stdout
		err = e.Run(context.Background(), spec)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func runEverywhere() int {
	uid, err := addTestUser()
	if err != nil {
		fmt.Fprintln(os.Stderr, "making a user with sub-ids:", err)
		return 1
	}
	dir, err := os.MkdirTemp("/tmp", "namespace-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	b, err := os.ReadFile("/proc/self/exe")
	exe := filepath.Join(dir, "namespace.test")
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(exe, b, 0o755), os.Chmod(exe, 0o755)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Go's list of what the test depends on lies where the user may not write; without it the result is not cached.
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return strings.HasPrefix(a, "-test.testlogfile=") })
	code := 0
	for _, place := range []string{"root", "user"} {
		cmd := exec.Command(exe, args...)
		cmd.Env = append(os.Environ(), placeVar+"="+place)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if place == "user" {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		fmt.Println("# as", place)
		if err := cmd.Run(); err != nil {
			fmt.Printf("# as %s: %v\n", place, err)
			code = 1
		}
	}
	return code
}

// addTestUser returns the uid of a user with sub-ids, made on first use.
func addTestUser() (uint32, error) {
	if exec.Command("id", testUser).Run() != nil {
		if out, err := exec.Command("useradd", "--no-create-home", testUser).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
	}
	if b, _ := os.ReadFile("/etc/subuid"); !strings.Contains(string(b), testUser+":") {
		out, err := exec.Command("usermod", "--add-subuids", "200000-265535", "--add-subgids", "200000-265535", testUser).CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
	}
	out, err := exec.Command("id", "-u", testUser).Output()
	if err != nil {
		return 0, err
	}
	uid, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 32)
	return uint32(uid), err
}

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

func TestSuite(t *testing.T) { exectest.Suite(t, newExecutor) }

// kill -9 of the builder, at once and as a whole, leaves no process of a RUN, no mount, and nothing on disk.
func TestKillLeavesNothing(t *testing.T) {
	dir, root := t.TempDir(), exectest.Root(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVar+"="+dir+":"+root)
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
	tree := func() (pids []string) {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.HasPrefix(string(b), "sleep\x001000") {
				pids = append(pids, f)
			}
		}
		return pids
	}
	for len(tree()) < 2 {
		time.Sleep(10 * time.Millisecond)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for i := 0; len(tree()) != 0; i++ {
		if i == 500 {
			t.Fatalf("STILL RUNNING: %v", tree())
		}
		time.Sleep(10 * time.Millisecond)
	}
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
