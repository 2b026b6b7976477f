package exectest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o666) }

// Links where the sandbox mounts and writes lead nowhere outside (CVE-2025-31133, -52565, -52881, CVE-2026-41579).
func testHostilePaths(t *testing.T, e executor.Executor) {
	outside := canary(t)
	up := "../../../../../../../../../.."
	for _, path := range []string{
		"dev", "proc", "sys", "etc/resolv.conf", "etc/hosts", "etc", "dev/null", "dev/pts", "dev/shm", "dev/mqueue", "dev/console", "dev/ptmx",
		"proc/sys", "proc/self", "sys/fs/cgroup",
	} {
		for _, to := range []string{
			outside + "/dir", outside + "/file", outside + "/new", up + outside + "/dir", up + outside + "/empty",
			"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/root", "/proc/1/root" + outside + "/dir", "/etc", "/dev", ".",
		} {
			root := Root(t)
			p := filepath.Join(root, path)
			must(t, os.MkdirAll(filepath.Dir(p), 0o755))
			must(t, os.RemoveAll(p))
			must(t, os.Symlink(to, p))
			before := tree(t, root)
			_, _, err := run(t, e, Shell(root, "echo x >/dev/null; echo x >/dev/x; true"))
			_ = err // refused or run: both are fine, as long as nothing outside is touched and nothing is left inside
			sameTree(t, path+" -> "+to, before, tree(t, root))
		}
	}
	for _, path := range []string{"etc/resolv.conf", "etc/hosts", "dev", "proc"} {
		root := Root(t)
		must(t, mkfifo(filepath.Join(root, path)))
		before := tree(t, root)
		_, _, _ = run(t, e, Shell(root, "true"))
		sameTree(t, path+" as a FIFO", before, tree(t, root))
	}
}

// What the process puts where mount points were is not followed when they are removed (CVE-2024-23652).
func testHostileCleanUp(t *testing.T, e executor.Executor) {
	outside := canary(t)
	for _, script := range []string{
		"mv /stub /gone; ln -s $OUT /stub",
		"mv /stub /gone; mkdir -p /stub/in; ln -s $OUT/dir /stub/in/dir",
		"mv /stub/in /gone; ln -s $OUT /stub/in",
		"mv /stub /gone; mkdir -p /stub/in/dir/more",
		"mv /etc /etc2; ln -s $OUT /etc",
		"mv /stub /etc/stub",
	} {
		root := Root(t)
		spec := Shell(root, "cd /; "+script)
		spec.Process.Env = append(spec.Process.Env, "OUT="+outside)
		spec.Mounts = []executor.Mount{
			{Type: executor.Tmpfs, Target: "/stub/in/dir"},
			{Type: executor.Bind, Source: tempFile(t, ""), Target: "/stub/empty"},
		}
		if _, errOut, err := run(t, e, spec); exitCode(err) < 0 {
			t.Errorf("%q: %v %s", script, err, errOut)
		}
		if _, err := os.Stat(filepath.Join(root, "gone/empty")); err == nil {
			t.Errorf("%q: a mount point is left where it was moved to", script)
		}
	}
}

// A mount's target is resolved in the image, whatever it looks like (CVE-2021-30465, CVE-2023-27561).
func testHostileMountTargets(t *testing.T, e executor.Executor) {
	outside := canary(t)
	up := "../../../../../../../../../.."
	for _, to := range []string{outside, outside + "/dir", up + outside, "/proc/self/root" + outside, "/proc/self/cwd", "/dev/../.." + outside} {
		root := Root(t)
		must(t, os.Symlink(to, filepath.Join(root, "link")))
		before := tree(t, root)
		for _, target := range []string{"/link", "/link/new", "/link/dir", "/home/" + up + "/link/x", "/" + up + outside + "/y"} {
			for _, source := range []string{t.TempDir(), tempFile(t, "x")} {
				spec := Shell(root, "true")
				spec.Mounts = []executor.Mount{{Type: executor.Bind, Source: source, Target: target}}
				_, _, _ = run(t, e, spec)
			}
			spec := Shell(root, "true")
			spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: target}}
			_, _, _ = run(t, e, spec)
		}
		sameTree(t, "link to "+to, before, tree(t, root))
	}
	for _, target := range []string{"/proc", "/proc/sys", "/proc/self/attr", "/proc/1"} {
		spec := Shell(Root(t), "true")
		spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: target}}
		if _, _, err := run(t, e, spec); exitCode(err) != -1 {
			t.Errorf("a mount over %s: %v, want an error", target, err)
		}
	}
}
