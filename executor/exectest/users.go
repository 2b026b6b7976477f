package exectest

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/executor"
)

// The table is BuildKit's and docker's behaviour: all groups of a user without a group, one group with one.
func testUsers(t *testing.T, e executor.Executor) {
	root := Root(t)
	for _, c := range []struct{ user, uid, gid, groups string }{
		{"", "0", "0", "0 4"},
		{"root", "0", "0", "0 4"},
		{"0", "0", "0", "0 4"},
		{"ann", "1000", "1001", "1001 50 51"},
		{"1000", "1000", "1001", "1001 50 51"},
		{"bob", "1002", "1002", "1002 50"},
		{"ann:staff", "1000", "50", "50"},
		{"ann:7", "1000", "7", "7"},
		{"1000:7", "1000", "7", "7"},
		{"4242", "4242", "0", "0"},
		{"4242:4343", "4242", "4343", "4343"},
		{"4242:extra", "4242", "51", "51"},
	} {
		spec := Shell(root, "id -u; id -g; id -G")
		spec.Process.User = c.user
		if got, want := strings.Fields(output(t, e, spec)), c.uid+" "+c.gid+" "+c.groups; strings.Join(got, " ") != want {
			t.Errorf("user %q: %v, want %s", c.user, got, want)
		}
	}
}

// No value becomes root by accident (CVE-2024-40635, CVE-2026-46680).
func testBadUsers(t *testing.T, e executor.Executor) {
	root := Root(t)
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd+"big:x:4294967296:0::/:\nneg:x:-1:0::/:\n"), 0o644))
	for _, user := range []string{
		"nobody-here", "ann:no-such-group", "2147483648", "4294967296", "4294967295", "-1", "+0", "0x0", "99999999999", "99999999999999999999",
		"0:2147483648", "0:-1", "0:+0", "1:2:3", ":0", ":", " 0", "0 ", "big", "neg", "ann:", "0:0:",
	} {
		spec := Shell(root, "id -u")
		spec.Process.User = user
		out, _, err := run(t, e, spec)
		if user == "ann:" { // docker takes an empty group for none
			if strings.TrimSpace(out) != "1000" {
				t.Errorf("user %q: ran as %q, %v", user, out, err)
			}
			continue
		}
		if exitCode(err) != -1 || out != "" {
			t.Errorf("USER %q RAN AS %s! %v", user, out, err)
		}
	}
	spec := Shell(root, "true")
	spec.Process.User = "foo"
	if _, _, err := run(t, e, spec); err == nil || !strings.Contains(err.Error(), "unable to find user foo: no matching entries in passwd file") {
		t.Errorf("unknown user: %v", err)
	}
}

// The user tables come from the image: a FIFO, a link to the outside, a device or a huge file must neither stop the
// builder nor fill its memory nor be read through (CVE-2024-9676, GHSA-72x6-4j93-7w86).
func testHostileUserFiles(t *testing.T, e executor.Executor) {
	outside := canary(t)
	for name, plant := range map[string]func(path string) error{
		"fifo":        func(p string) error { return mkfifo(p) },
		"directory":   func(p string) error { return os.Mkdir(p, 0o755) },
		"link loop":   func(p string) error { return os.Symlink("passwd", p) },
		"huge":        func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o644), os.Truncate(p, 4<<30)) },
		"link out":    func(p string) error { return os.Symlink(filepath.Join(outside, "file"), p) },
		"link up out": func(p string) error { return os.Symlink("../../../../../../../../"+filepath.Join(outside, "file"), p) },
	} {
		root := Root(t)
		p := filepath.Join(root, "etc/passwd")
		must(t, errors.Join(os.Remove(p), plant(p)))
		spec := Shell(root, "echo ran") // not id: it would wait for the FIFO itself
		spec.Process.User = "canary"
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if out, _, err := run(t, e, spec); exitCode(err) != -1 || out != "" {
			t.Errorf("%s: user found: %q, %v", name, out, err)
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
			t.Errorf("%s: %d bytes allocated", name, grown)
		}
		spec.Process.User = ""
		if out, _, err := run(t, e, spec); out != "ran\n" {
			t.Errorf("%s: root cannot run: %v", name, err)
		}
	}
}
