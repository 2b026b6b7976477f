package exectest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/executor"
)

// A run that writes nothing leaves nothing: neither what had to be made to mount on, nor a changed time.
func testNothingLeftInRoot(t *testing.T, e executor.Executor) {
	root := Root(t)
	before := tree(t, root)
	spec := Shell(root, "test -d /proc/self -a -d /sys -a -c /dev/null -a -s /etc/hosts")
	spec.Mounts = []executor.Mount{
		{Type: executor.Tmpfs, Target: "/a/b/c"},
		{Type: executor.Bind, Source: "/etc/hostname", Target: "/run/secrets/x", ReadOnly: true},
		{Type: executor.Tmpfs, Target: "/a/b/c/d"},
	}
	must(t, os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o600))
	spec.Mounts[1].Source = tempFile(t, "secret")
	output(t, e, spec)
	sameTree(t, "a run left something", before, tree(t, root))

	// What it does write stays, with the directories around it.
	output(t, e, Shell(root, "mkdir -p /srv/x; echo kept >/srv/x/y; echo z >/etc/new"))
	for name, want := range map[string]string{"srv/x/y": "kept\n", "etc/new": "z\n"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"proc", "sys", "dev", "etc/hosts", "etc/resolv.conf", "run", "a"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

func tempFile(t testing.TB, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(p, []byte(content), 0o644))
	must(t, os.Chmod(p, 0o644))
	return p
}

func testMounts(t *testing.T, e executor.Executor) {
	root := Root(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644))
	file := tempFile(t, "secret")
	spec := Shell(root, `cat /ro/f /file; echo
		echo x >/ro/g 2>/dev/null || echo ro
		echo x >/file 2>/dev/null || echo ro file
		echo written >/rw/g
		echo y >/tmpfs/y; stat -c %a /tmpfs; stat -f -c %T /tmpfs
		stat -c %a /mode
		echo x >/rotmp/x 2>/dev/null || echo ro tmpfs
		cat /tmpfs/nested/f; echo
		cat /rw/again/f; echo`)
	spec.Mounts = []executor.Mount{
		{Type: executor.Bind, Source: dir, Target: "/ro", ReadOnly: true},
		{Type: executor.Bind, Source: file, Target: "/file", ReadOnly: true},
		{Type: executor.Bind, Source: dir, Target: "/rw"},
		{Type: executor.Tmpfs, Target: "/tmpfs"},
		{Type: executor.Tmpfs, Target: "/mode", Mode: 0o750},
		{Type: executor.Tmpfs, Target: "/rotmp", ReadOnly: true},
		{Type: executor.Bind, Source: dir, Target: "/tmpfs/nested", ReadOnly: true},
		{Type: executor.Bind, Source: dir, Target: "/rw/again", ReadOnly: true},
	}
	want := "contentsecret\nro\nro file\n1777\ntmpfs\n750\nro tmpfs\ncontent\ncontent"
	if got := output(t, e, spec); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "g")); string(b) != "written\n" {
		t.Errorf("through /rw: %q, %v", b, err)
	}
}

func testTmpfsSize(t *testing.T, e executor.Executor) {
	spec := Shell(Root(t), "head -c 2000000 /dev/zero >/small/big 2>/dev/null || echo full")
	spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/small", Size: 1 << 20}}
	if got := output(t, e, spec); got != "full" {
		t.Errorf("2 MB in a tmpfs of 1: %q", got)
	}
}

// Links of the image in a target lead to somewhere in the image, dangling ones too.
func testMountStubs(t *testing.T, e executor.Executor) {
	root := Root(t)
	for link, to := range map[string]string{
		"etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf",
		"var":             "/../../data/var",
		"abs":             "/home/ann/made",
		"loop":            "loop",
	} {
		must(t, os.Symlink(to, filepath.Join(root, link)))
	}
	before := tree(t, root)
	spec := Shell(root, "test -e /etc/resolv.conf && readlink /etc/resolv.conf; ls -d /data/var/cache /home/ann/made; ls /abs")
	spec.Process.User = "ann"
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "inside"), nil, 0o644))
	spec.Mounts = []executor.Mount{
		{Type: executor.Tmpfs, Target: "/var/cache"},
		{Type: executor.Bind, Source: dir, Target: "/abs", ReadOnly: true},
	}
	want := "../run/systemd/resolve/stub-resolv.conf\n/data/var/cache\n/home/ann/made\ninside"
	if got := output(t, e, spec); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	sameTree(t, "mount points", before, tree(t, root))
	spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/loop/x"}}
	if _, _, err := run(t, e, spec); exitCode(err) != -1 {
		t.Errorf("a loop: %v", err)
	}
	sameTree(t, "mount points after an error", before, tree(t, root))
}
