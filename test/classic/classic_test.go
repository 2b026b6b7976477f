package main

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// contextOf is a build context as a tar.
func contextOf(t *testing.T, files map[string]string) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

// TestClassicBuilder has moby's interpreter build on our Backend: as root, and as an ordinary user in `cairn unshare`. The second build is all cache.
func TestClassicBuilder(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	files := map[string]string{
		"Dockerfile": strings.Join([]string{
			"FROM " + base + " AS made", "ARG WHO=ann", "ENV GREETING=hello", "WORKDIR /srv/app", "COPY --chown=1000:50 one.txt dir/ ./",
			"RUN echo $GREETING $WHO > said && chown ann said", "FROM " + base, "COPY --from=made --chown=ann /srv/app /copied", "ADD dir/two.txt /added",
			"LABEL made=by-moby", `CMD ["cat", "/copied/said"]`,
		}, "\n"),
		"one.txt": "one\n", "dir/two.txt": "two\n",
	}
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		exe := filepath.Join(h.Dir, "classic")
		if out, err := exec.Command("go", "build", "-tags", "seccomp netgo osusergo", "-o", exe, ".").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := os.Chmod(exe, 0o755); err != nil {
			t.Fatal(err)
		}
		build := func() string {
			t.Helper()
			args := []string{exe, h.Root, "classic:1"}
			cmd := h.Command(args...)
			if u.UID != 0 {
				cmd = h.CairnCommand(append([]string{"unshare"}, args...)...)
			}
			cmd.Stdin = contextOf(t, files)
			return harness.Execute(t, cmd).OK(t).Stdout
		}
		id := regexp.MustCompile(`---> ([0-9a-f]{12})\n$`)
		first, second := build(), build()
		if n := strings.Count(second, "---> Using cache"); n != 9 || strings.Contains(second, "Running in") {
			t.Errorf("the second build took %d steps from the cache:\n%s", n, second)
		}
		if a, b := id.FindStringSubmatch(first), id.FindStringSubmatch(second); a == nil || b == nil || a[1] != b[1] {
			t.Errorf("the builds made %v and %v", a, b)
		}
		if got := h.Cairn("run", "classic:1").OK(t).Stdout; got != "hello ann\n" {
			t.Errorf("the image says %q", got)
		}
		got := h.Cairn("run", "classic:1", "stat", "-c", "%u:%g %n", "/copied/one.txt", "/copied/said", "/added").OK(t).Stdout
		if want := "1000:1000 /copied/one.txt\n1000:1000 /copied/said\n0:0 /added\n"; got != want {
			t.Errorf("owners are\n%swant\n%s", got, want)
		}
	})
}

// TestFailingRun: an exit code is the builder's error.
func TestFailingRun(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	h := harness.NewHome(t, harness.User{Name: "root", UID: os.Getuid(), GID: os.Getgid()})
	cmd := exec.Command("go", "run", "-tags", "seccomp netgo osusergo", ".", h.Root, "x")
	cmd.Stdin = contextOf(t, map[string]string{"Dockerfile": "FROM " + base + "\nRUN exit 6\n"})
	harness.Execute(t, cmd).Fails(t, 1, "returned a non-zero code: 6")
}
