package exectest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/executor"
)

func testExitCodes(t *testing.T, e executor.Executor) {
	root := Root(t)
	for _, c := range []struct {
		script       string
		code, signal int
	}{
		{"exit 0", 0, 0}, {"exit 1", 1, 0}, {"exit 255", 255, 0}, {"exit 137", 137, 0},
		{"sh -c 'kill -9 $$'; exit $?", 137, 0},
	} {
		_, _, err := run(t, e, Shell(root, c.script))
		var ee *executor.ExitError
		if errors.As(err, &ee) && ee.Signal != c.signal {
			t.Errorf("%q: signal %d, want %d", c.script, ee.Signal, c.signal)
		}
		if got := exitCode(err); got != c.code {
			t.Errorf("%q: exit code %d (%v), want %d", c.script, got, err, c.code)
		}
	}
}

func testCannotExecute(t *testing.T, e executor.Executor) {
	root := Root(t)
	must(t, os.WriteFile(filepath.Join(root, "plain"), []byte("text"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "garbage"), []byte("\x7fELF?"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "script"), []byte("#!/no/such/interpreter\n"), 0o755))
	for _, c := range []struct {
		command string
		code    int
		text    string
	}{
		{"nonsense", 127, `exec: "nonsense": executable file not found in $PATH`},
		{"/no/such", 127, `exec: "/no/such": stat /no/such: no such file or directory`},
		{"/etc/passwd/x", 127, "not a directory"},
		{"/plain", 126, `exec: "/plain": permission denied`},
		{"/etc", 126, `exec: "/etc": is a directory`},
		{"/garbage", 255, ""},
		{"/script", 255, ""},
	} {
		spec := Shell(root, "")
		spec.Process.Args = []string{c.command}
		_, _, err := run(t, e, spec)
		if got := exitCode(err); got != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: exit code %d, %v; want %d and %q", c.command, got, err, c.code, c.text)
		}
		var exit *executor.ExitError
		if c.text != "" && (!errors.As(err, &exit) || !strings.Contains(exit.Reason, c.text)) {
			t.Errorf("%s: the reason of %v is not %q", c.command, err, c.text)
		}
	}
}

// What is unknown is an error, never a default (GHSA-7236-3392-c5c6).
func testBadSpecs(t *testing.T, e executor.Executor) {
	root := Root(t)
	for name, change := range map[string]func(*executor.Spec){
		"no command":         func(s *executor.Spec) { s.Process.Args = nil },
		"empty command":      func(s *executor.Spec) { s.Process.Args = []string{""} },
		"network":            func(s *executor.Spec) { s.Network = "bridge" },
		"security":           func(s *executor.Spec) { s.Security = "privileged" },
		"relative directory": func(s *executor.Spec) { s.Process.Dir = "x" },
		"mount type":         func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: "nfs", Source: "/", Target: "/mnt"}} },
		"relative target":    func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "mnt"}} },
		"target root":        func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/"}} },
		"target root, too":   func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/etc/.."}} },
		"no source": func(s *executor.Spec) {
			s.Mounts = []executor.Mount{{Type: executor.Bind, Source: "/no/such", Target: "/mnt"}}
		},
		"ulimit":            func(s *executor.Spec) { s.Ulimits = []executor.Ulimit{{Name: "nonsense", Soft: 1, Hard: 1}} },
		"soft above hard":   func(s *executor.Spec) { s.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 9, Hard: 1}} },
		"no root":           func(s *executor.Spec) { s.Root = filepath.Join(s.Root, "none") },
		"file as directory": func(s *executor.Spec) { s.Process.Dir = "/etc/passwd" },
	} {
		spec := Shell(root, "echo ran")
		change(&spec)
		before := tree(t, root)
		out, _, err := run(t, e, spec)
		if exitCode(err) != -1 || out != "" {
			t.Errorf("%s: output %q, error %v; want nothing run and an error", name, out, err)
		}
		sameTree(t, name, before, tree(t, root))
	}
}

func testEnvironment(t *testing.T, e executor.Executor) {
	t.Setenv("OUTSIDE", "leaked")
	root := Root(t)
	for _, c := range []struct {
		name string
		env  []string
		user string
		want string
	}{
		{"given, PATH and HOME", []string{"A=1", "PATH=/bin", "HOME=/x"}, "", "A=1 HOME=/x PATH=/bin"},
		{"HOME of root", []string{"PATH=/bin"}, "", "HOME=/root PATH=/bin"},
		{"HOME of a user", []string{"PATH=/bin"}, "ann", "HOME=/home/ann PATH=/bin"},
		{"HOME of nobody known", []string{"PATH=/bin"}, "4242", "HOME=/ PATH=/bin"},
		{"an empty HOME is none", []string{"PATH=/bin", "HOME="}, "ann", "HOME=/home/ann PATH=/bin"},
		{"the last value wins", []string{"PATH=/bin", "HOME=/", "A=1", "A=2"}, "", "A=2 HOME=/ PATH=/bin"},
		{"values are taken as they are", []string{"PATH=/bin", "HOME=/", "A=$B  c=d"}, "", "A=$B  c=d HOME=/ PATH=/bin"},
	} {
		spec := Shell(root, "")
		spec.Process.Args = []string{"/bin/sh", "-c", "env | grep -v -e ^PWD= -e ^SHLVL= | sort"}
		spec.Process.Env, spec.Process.User = c.env, c.user
		if got := strings.ReplaceAll(output(t, e, spec), "\n", " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	spec := Shell(root, "echo $PATH")
	spec.Process.Env = nil
	if got, want := output(t, e, spec), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"; got != want {
		t.Errorf("the default PATH is %q, want %q", got, want)
	}
}

func testWorkingDirectory(t *testing.T, e executor.Executor) {
	root := Root(t)
	must(t, os.Symlink("/home/ann", filepath.Join(root, "link")))
	for dir, want := range map[string]string{"": "/", "/": "/", "/home/ann": "/home/ann", "/link": "/home/ann", "/home/../etc": "/etc"} {
		spec := Shell(root, "")
		spec.Process.Args, spec.Process.Dir = []string{"/bin/pwd", "-P"}, dir
		if got := output(t, e, spec); got != want {
			t.Errorf("in %q: %q, want %q", dir, got, want)
		}
	}
}
