// Package exectest is the conformance suite of executor.Executor: what every implementation must do, whatever it is
// built on. An implementation's test calls Suite inside the place where it works.
//
// The processes of the suite are busybox applets over a root filesystem made by Root, which, like a scratch image, has
// no /proc, /dev, /sys or /etc/hosts. It needs a static busybox at /bin/busybox or on PATH.
package exectest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/executor"
)

// passwd and group are the user tables of Root.
const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\nbob:x:1002:1002::/:/bin/sh\n"
	group  = "root:x:0:\nann:x:1001:\nstaff:x:50:ann,bob\nextra:x:51:ann\nadm:x:4:root\n"
)

// applets are the commands of Root.
const applets = `ash awk cat chmod chown chroot cp cut date dd df du env expr false find grep head hostname id ip kill ln ls mkdir mkfifo
	mknod mktemp mount mv nohup nsenter ps pwd readlink rm rmdir sed seq setsid sh sleep sort stat stty sync tail tar tee test touch tr
	true tty umount uname unshare wc which yes`

// Root makes a root filesystem of busybox and returns its path.
func Root(t testing.TB) string {
	t.Helper()
	busybox := "/bin/busybox"
	if p, err := exec.LookPath("busybox"); err == nil {
		busybox = p
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatalf("the suite needs a static busybox: %v", err)
	}
	root := t.TempDir()
	for _, d := range []string{"bin", "etc", "root", "home", "home/ann"} {
		must(t, os.Mkdir(filepath.Join(root, d), 0o755))
	}
	must(t, os.Mkdir(filepath.Join(root, "tmp"), 0o700))
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky))
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755))
	for name := range strings.FieldsSeq(applets) {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
	}
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte(group), 0o644))
	// The umask of whoever runs the suite must not matter to the image's users.
	must(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() != "tmp", d.Name() == "busybox":
			return os.Chmod(p, 0o755)
		case d.Type().IsRegular():
			return os.Chmod(p, 0o644)
		}
		return nil
	}))
	old := time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	for _, d := range []string{"etc", "."} {
		must(t, os.Chtimes(filepath.Join(root, d), old, old))
	}
	return root
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Shell is a Spec that runs a shell script over root.
func Shell(root, script string) executor.Spec {
	return executor.Spec{Root: root, Process: executor.Process{
		Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, Dir: "/",
	}}
}

// run runs a Spec and returns what it wrote.
func run(t testing.TB, e executor.Executor, spec executor.Spec) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	spec.Process.Stdout, spec.Process.Stderr = &out, &errOut
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = e.Run(ctx, spec)
	return out.String(), errOut.String(), err
}

// output runs a Spec that must succeed and returns its standard output, trimmed.
func output(t testing.TB, e executor.Executor, spec executor.Spec) string {
	t.Helper()
	out, errOut, err := run(t, e, spec)
	if err != nil {
		t.Fatalf("%q: %v\n%s%s", spec.Process.Args, err, out, errOut)
	}
	return strings.TrimSpace(out)
}

// exitCode is the code of an ExitError, 0 for nil, and -1 for any other error.
func exitCode(err error) int {
	var ee *executor.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ee):
		return ee.Code
	}
	return -1
}

// tree describes every file below a directory by all that a layer would show of it, and by its inode.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := os.Lstat(p)
		if err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		rel, err := filepath.Rel(dir, p)
		m[rel] = fmt.Sprintf("%s %d:%d %d bytes %s inode %d", st.Mode(), sys.Uid, sys.Gid, st.Size(), st.ModTime(), sys.Ino)
		return err
	}))
	return m
}

// sameTree complains about every difference between two trees.
func sameTree(t testing.TB, what string, before, after map[string]string) {
	t.Helper()
	for p, a := range after {
		if b, ok := before[p]; !ok {
			t.Errorf("%s: %s appeared: %s", what, p, a)
		} else if a != b {
			t.Errorf("%s: %s was %s, is %s", what, p, b, a)
		}
	}
	for p := range before {
		if _, ok := after[p]; !ok {
			t.Errorf("%s: %s disappeared", what, p)
		}
	}
}

// canary makes a directory outside of every root that nothing may touch, and checks that at the test's end.
func canary(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("canary"), 0o666))
	must(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o666))
	before := tree(t, dir)
	t.Cleanup(func() { sameTree(t, "SOMETHING OUTSIDE OF THE ROOT WAS CHANGED", before, tree(t, dir)) })
	return dir
}
