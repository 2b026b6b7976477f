package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cairn-build/cairn/test/torture"
)

// busyboxVar tells a second run of a test binary which image to use, and that it is the second run.
const busyboxVar = "CAIRN_TEST_BUSYBOX"

// Place is what a test of a library has: an image, and a directory for a store.
type Place struct {
	// Busybox names a base image in a registry that lives as long as the test.
	Busybox string
	// Root is a directory of the caller that does not exist yet; it is removed at the end of the test.
	Root string
}

// Again runs a test of a library as everybody: as the caller, and where that is root also as an unprivileged user with sub-ids, in a second run
// of the test binary. Its output becomes this one's.
func Again(t *testing.T, f func(t *testing.T, p Place)) {
	t.Helper()
	if image := os.Getenv(busyboxVar); image != "" {
		f(t, newPlace(t, image))
		return
	}
	image := StartRegistry(t, RegistryOptions{}).Busybox(t)
	if os.Getuid() != 0 {
		f(t, newPlace(t, image))
		return
	}
	t.Run("root", func(t *testing.T) { f(t, newPlace(t, image)) })
	t.Run("user", func(t *testing.T) { again(t, image) })
}

func newPlace(t *testing.T, image string) Place {
	t.Helper()
	dir, err := os.MkdirTemp("", "cairn-lib-")
	if err != nil {
		t.Fatal(err)
	}
	h := &Home{t: t, Dir: dir, Root: filepath.Join(dir, "store"), cgroups: Cgroups()}
	t.Cleanup(func() {
		h.CheckClean()
		remove(t, dir)
	})
	return Place{Busybox: image, Root: h.Root}
}

// again runs the parent of this test as the unprivileged user.
func again(t *testing.T, image string) {
	t.Helper()
	u := Unprivileged(t)
	dir, err := os.MkdirTemp("", "cairn-again-")
	if err != nil {
		t.Fatal(err)
	}
	defer remove(t, dir)
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "test")
	if err := os.WriteFile(exe, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, exe} {
		if err := os.Lchown(path, u.UID, u.GID); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Dir(t.Name()) // without "/user"
	limit := "4m"
	if torture.On() {
		limit = "3h"
	}
	cmd := exec.Command(exe, "-test.run", "^"+name+"$", "-test.v", "-test.timeout", limit)
	cmd.Dir = dir
	cmd.Env = []string{
		busyboxVar + "=" + image, "HOME=" + dir, "USER=" + u.Name, "TMPDIR=" + dir,
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	figures := filepath.Join(dir, "figures")
	cmd.Env = append(cmd.Env, torture.Env(figures)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Error(fmt.Errorf("as %s: %w\n%s", u.Name, err, out))
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
	torture.Collect(t, figures)
}
