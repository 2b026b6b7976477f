package exectest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/executor"
)

// dockerCaps is the set of docker's default capabilities: bits of linux/capability.h.
const dockerCaps = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<13 | 1<<18 | 1<<27 | 1<<29 | 1<<31

// status reads lines of /proc/self/status of a process.
func status(t *testing.T, e executor.Executor, spec executor.Spec) map[string]string {
	t.Helper()
	spec.Process.Args = []string{"/bin/cat", "/proc/self/status"}
	m := map[string]string{}
	for line := range strings.Lines(output(t, e, spec)) {
		k, v, _ := strings.Cut(line, ":")
		m[k] = strings.TrimSpace(v)
	}
	return m
}

func testCapabilities(t *testing.T, e executor.Executor) {
	root := Root(t)
	full := fmt.Sprintf("%016x", uint64(dockerCaps))
	none := fmt.Sprintf("%016x", 0)
	got := status(t, e, Shell(root, ""))
	for k, want := range map[string]string{"CapInh": none, "CapAmb": none, "CapBnd": full, "CapPrm": full, "CapEff": full, "NoNewPrivs": "0", "Seccomp": "2"} {
		if got[k] != want {
			t.Errorf("root: %s is %s, want %s", k, got[k], want)
		}
	}
	spec := Shell(root, "")
	spec.Process.User = "ann"
	got = status(t, e, spec)
	for k, want := range map[string]string{"CapInh": none, "CapAmb": none, "CapBnd": full, "CapPrm": none, "CapEff": none, "Seccomp": "2"} {
		if got[k] != want {
			t.Errorf("a user: %s is %s, want %s", k, got[k], want)
		}
	}
}

func testInsecure(t *testing.T, e executor.Executor) {
	root := Root(t)
	spec := Shell(root, "")
	spec.Security = executor.SecurityInsecure
	got := status(t, e, spec)
	caps, err := strconv.ParseUint(got["CapEff"], 16, 64)
	if err != nil || caps&(1<<21) == 0 || got["Seccomp"] != "0" || got["CapInh"] != fmt.Sprintf("%016x", 0) {
		t.Errorf("CapEff %s, Seccomp %s, CapInh %s; want CAP_SYS_ADMIN, no filter, nothing inheritable", got["CapEff"], got["Seccomp"], got["CapInh"])
	}
	spec = Shell(root, "mount -t tmpfs none /tmp && echo mounted")
	spec.Security = executor.SecurityInsecure
	if got := output(t, e, spec); got != "mounted" {
		t.Errorf("mount: %q", got)
	}
}

// The filter refuses what docker's refuses, and answers syncs at once.
func testSeccomp(t *testing.T, e executor.Executor) {
	root := Root(t)
	for _, script := range []string{"mount -t tmpfs none /tmp", "unshare -U true", "chroot / true && nsenter -t 1 -m true"} {
		if _, _, err := run(t, e, Shell(root, script)); exitCode(err) <= 0 {
			t.Errorf("%q: %v, want a refusal", script, err)
		}
	}
	output(t, e, Shell(root, "sync; dd if=/dev/zero of=/f bs=1 count=1 conv=fsync"))
}
