package exectest

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

// What belongs to the machine is hidden or cannot be written, by root either.
func testProtected(t *testing.T, e executor.Executor) {
	root := Root(t)
	hostname, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	must(t, err)
	for _, script := range []string{
		"echo x >/proc/sys/kernel/core_pattern", "echo h >/proc/sysrq-trigger", "echo x >/proc/irq/default_smp_affinity",
		"echo x >/sys/x", "mkdir /sys/fs/cgroup/x", "for d in /sys/fs/cgroup/*; do mkdir $d/x && exit 0; done; exit 1",
		"mount -o remount,rw /sys", "umount /proc/sys", "test -s /proc/kcore", "test -s /proc/keys", "test -s /proc/timer_list",
		"ls /sys/firmware | grep .", "ls /proc/scsi | grep .",
	} {
		if _, _, err := run(t, e, Shell(root, script)); exitCode(err) <= 0 {
			t.Errorf("%q: %v, want a refusal", script, err)
		}
	}
	if now, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); string(now) != string(hostname) {
		t.Error("THE MACHINE WAS CHANGED!")
	}
	output(t, e, Shell(root, "test -d /sys/kernel && test -d /proc/sys/kernel"))
}

func testNamespaces(t *testing.T, e executor.Executor) {
	root := Root(t)
	got := strings.Fields(output(t, e, Shell(root, "for n in pid mnt ipc uts; do readlink /proc/self/ns/$n; done")))
	for i, n := range []string{"pid", "mnt", "ipc", "uts"} {
		if host, err := os.Readlink("/proc/self/ns/" + n); err != nil || i >= len(got) || got[i] == host {
			t.Errorf("%s namespace: %v, outside %s, %v", n, got, host, err)
		}
	}
	if _, _, err := run(t, e, Shell(root, "kill -9 $$; sleep 1; exit 3")); exitCode(err) != 3 {
		t.Errorf("process 1 killed itself: %v", err)
	}
	if got := output(t, e, Shell(root, "echo $$; ls /proc | grep -c '^[0-9]'")); !strings.HasPrefix(got, "1\n") || len(got) > 3 {
		t.Errorf("own pid and number of processes: %q", got)
	}
	if got := output(t, e, Shell(root, "awk '{print $5}' /proc/self/mountinfo | grep -v -e '^/$' -e ^/proc -e ^/dev -e ^/sys -e ^/etc; ls /")); strings.Contains(got, "work") {
		t.Errorf("other mounts or files can be seen: %q", got)
	}
}

// Nothing but the three streams is open, and no working directory leads out through one that leaked (CVE-2024-21626).
func testDescriptors(t *testing.T, e executor.Executor) {
	root := Root(t)
	leak, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0) // on purpose without O_CLOEXEC
	must(t, err)
	defer unix.Close(leak)
	must(t, unix.Dup3(leak, 200, 0))
	defer unix.Close(200)
	spec := Shell(root, "")
	spec.Process.Args = []string{"/bin/ls", "/proc/self/fd"}
	if got := strings.Join(strings.Fields(output(t, e, spec)), " "); got != "0 1 2 3" { // 3 is the directory itself
		t.Errorf("open descriptors: %s", got)
	}
	for fd := 3; fd < 40; fd++ {
		spec := Shell(root, "ls ../../../../../../bin/busybox; ls -d ../../../../../../"+root)
		spec.Process.Dir = "/proc/self/fd/" + strconv.Itoa(fd)
		if out, _, err := run(t, e, spec); err == nil {
			t.Errorf("THE WORKING DIRECTORY %s LED OUT! %q", spec.Process.Dir, out)
		}
	}
	if left, err := os.ReadDir(filepath.Join(root, "proc")); err == nil {
		t.Errorf("/proc is left with %v", left)
	}
}

// The program that started the process cannot be overwritten through /proc (CVE-2019-5736).
func testExecutableUnchanged(t *testing.T, e executor.Executor) {
	sum := func() [32]byte {
		b, err := os.ReadFile("/proc/self/exe")
		must(t, err)
		return sha256.Sum256(b)
	}
	before := sum()
	root := Root(t)
	must(t, os.WriteFile(filepath.Join(root, "attack"), []byte("#!/proc/self/exe\n"), 0o755))
	spec := Shell(root, "for i in 1 2 3; do for p in /proc/[0-9]*/exe /proc/self/exe; do echo x >>$p; done; done 2>/dev/null; true")
	output(t, e, spec)
	spec.Process.Args = []string{"/attack"}
	_, _, _ = run(t, e, spec)
	if sum() != before {
		t.Fatal("THE PROGRAM WAS OVERWRITTEN!")
	}
}
