package runc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/exectest"
	"github.com/cairn-build/cairn/pkg/userns"
)

// placeVar names the place in which this test binary has been started again.
const placeVar = "RUNC_TEST_PLACE"

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
	os.Exit(m.Run())
}

func runEverywhere() int {
	uid, err := addTestUser()
	if err != nil {
		fmt.Fprintln(os.Stderr, "making a user with sub-ids:", err)
		return 1
	}
	dir, err := os.MkdirTemp("/tmp", "runc-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	b, err := os.ReadFile("/proc/self/exe")
	exe := filepath.Join(dir, "runc.test")
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(exe, b, 0o755), os.Chmod(exe, 0o755)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := 0
	for _, place := range []string{"root", "user"} {
		cmd := exec.Command(exe, os.Args[1:]...)
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

func TestSuite(t *testing.T) { exectest.Suite(t, newExecutor) }

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
