package exectest

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

func testUlimits(t *testing.T, e executor.Executor) {
	spec := Shell(Root(t), "ulimit -Sn; ulimit -Hn; ulimit -Sc")
	spec.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 123, Hard: 456}, {Name: "core", Soft: 0, Hard: 0}}
	if got := output(t, e, spec); got != "123\n456\n0" {
		t.Errorf("limits %q", got)
	}
	// Without any, those of the caller's other children.
	own, err := exec.Command("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc").Output()
	must(t, err)
	if got := output(t, e, Shell(Root(t), "ulimit -Sn; ulimit -Hn; ulimit -Sc")); got != strings.TrimSpace(string(own)) {
		t.Errorf("limits %q, want %q", got, own)
	}
	var have unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &have))
	spec = Shell(Root(t), "ulimit -Hn")
	spec.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 1 << 40, Hard: -1}}
	want := strconv.FormatUint(have.Max, 10)
	if have.Max == unix.RLIM_INFINITY {
		want = "unlimited"
	}
	if got := output(t, e, spec); got != want {
		t.Errorf("beyond what is allowed: %s, want the place's %s", got, want)
	}
}

func testUmask(t *testing.T, e executor.Executor) {
	defer unix.Umask(unix.Umask(0o077))
	root := Root(t)
	spec := Shell(root, "umask; cat /etc/hosts >/dev/null; ls /made/here; : >/tmp/f; stat -c %a /tmp/f")
	spec.Process.User = "ann"
	spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/made/here"}}
	if got := output(t, e, spec); got != "0022\n644" {
		t.Errorf("umask and mode: %q", got)
	}
}
