package test

import (
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
)

func TestErrors(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	closed := harness.StartRegistry(t, harness.RegistryOptions{Auth: true})
	base := registry.Busybox(t)
	for _, tc := range []struct {
		name       string
		dockerfile string
		args       []string
		code       int
		text, hint string
	}{
		{name: "failing RUN", dockerfile: "FROM " + base + "\n\nRUN echo before; echo at fault >&2; exit 42\nRUN true\n", code: 1,
			text: "exit code: 42"},
		{name: "missing command", dockerfile: "FROM " + base + "\nRUN no-such-program\n", code: 1, text: "exit code: 127"},
		{name: "missing shell", dockerfile: "FROM scratch\nRUN true\n", code: 1, text: `exit code: 127: exec: "/bin/sh": stat /bin/sh: no such file or directory`},
		{name: "missing file", dockerfile: "FROM " + base + "\nCOPY mising.txt /\n", code: 1, text: "mising.txt", hint: "missing.txt"},
		{name: "unknown instruction", dockerfile: "FROM " + base + "\nCOPPY a b\n", code: 1, text: "COPPY", hint: "COPY"},
		{name: "unknown instruction flag", dockerfile: "FROM " + base + "\nRUN --monut=type=tmpfs,target=/x true\n", code: 1, text: "monut", hint: "mount"},
		{name: "no FROM", dockerfile: "RUN true\n", code: 1, text: "FROM"},
		{name: "empty Dockerfile", dockerfile: "", code: 1, text: "Dockerfile"},
		{name: "unknown stage", dockerfile: "FROM " + base + " AS one\n", args: []string{"--target", "noe"}, code: 1, text: "noe"},
		{name: "missing base", dockerfile: "FROM " + registry.Name("none/such:v1") + "\n", code: 1, text: "none/such:v1"},
		{name: "impossible base", dockerfile: "FROM UPPER/case:v1\n", code: 1, text: "UPPER/case"},
		{name: "nobody listens", dockerfile: "FROM 127.0.0.1:1/base\n", code: 1, text: "127.0.0.1:1"},
		{name: "refused pull", dockerfile: "FROM " + closed.Name("base") + "\n", code: 1, text: "401", hint: "cairn login"},
		{name: "refused push", dockerfile: "FROM " + base + "\n", args: []string{"-t", closed.Name("x"), "--push"}, code: 1, text: "401", hint: "cairn login"},
		{name: "missing Dockerfile", args: []string{"-f", "Nofile"}, code: 1, text: "Nofile"},
		{name: "unknown flag", dockerfile: "FROM " + base + "\n", args: []string{"--buildarg", "A=1"}, code: 2, text: "--buildarg", hint: "--build-arg"},
		{name: "missing secret", dockerfile: "FROM " + base + "\nRUN --mount=type=secret,id=key,required true\n", code: 1, text: "key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := harness.NewHome(t, harness.Unprivileged(t))
			dir := h.Files(map[string]string{"Dockerfile": tc.dockerfile, "missing.txt": "x"})
			if tc.name == "missing Dockerfile" {
				_ = os.Remove(h.Path("Dockerfile"))
			}
			r := build(h, append(tc.args, dir)...).Fails(t, tc.code, tc.text, tc.hint)
			if lines := lastLines(r.Stderr); len(lines) != 1 && len(lines) != 2 || strings.Contains(r.Stderr, "goroutine ") {
				t.Errorf("not one line and at most one hint at the end:\n%s", r.Stderr)
			}
		})
	}
}

// lastLines are the lines that cairn itself wrote at the end.
func lastLines(stderr string) (lines []string) {
	for _, l := range strings.Split(stderr, "\n") {
		if strings.HasPrefix(l, "cairn: ") && !strings.HasPrefix(l, "cairn: warning: ") {
			lines = append(lines, l)
		}
	}
	return lines
}

// TestFailingRunIsExplained looks at everything that a failing RUN is to show.
func TestFailingRunIsExplained(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + "\nENV A=b\n\nRUN echo first; \\\n    echo the reason >&2; \\\n    exit 7\nRUN true\n"})
		r := build(h, "--progress=quiet", dir).Fails(t, 1, "the reason", "exit code: 7", "echo first")
		for _, want := range []string{`(?m)^ *4 \| >>> RUN echo first`, `(?m)^ *6 \| >>> +exit 7`, `(?m)^ *3 \| +$`, `(?m)^cairn: .*Dockerfile:4.*exit code: 7$`} {
			if !regexp.MustCompile(want).MatchString(r.Stderr) {
				t.Errorf("no line matches %s in:\n%s", want, r.Stderr)
			}
		}
	})
}

// TestSignals ends a build from outside: the code says by which signal, and nothing is left (the harness looks).
func TestSignals(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
			h := harness.NewHome(t, u)
			dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + "\nRUN echo started; sleep 1000\n"})
			log, err := os.Create(h.Path("log"))
			if err != nil {
				t.Fatal(err)
			}
			cmd := h.CairnCommand("build", "--root", h.Root, "--progress=plain", dir)
			cmd.Stderr = log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			harness.WaitFor(t, 30*time.Second, "the RUN step runs", func() bool {
				data, _ := os.ReadFile(h.Path("log"))
				return regexp.MustCompile(`(?m)^#\d+ \d+\.\d+ started$`).Match(data)
			})
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 128+int(sig) {
				data, _ := os.ReadFile(h.Path("log"))
				t.Errorf("%v: exit code %d\n%s", sig, code, data)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("%v: the end took %v", sig, took)
			}
			h.CheckClean()
		}
	})
}

// TestRunPassesOn looks at what `cairn run` gives back of the command.
func TestRunPassesOn(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		run := func(args ...string) harness.Result {
			return h.Cairn(append([]string{"run", "--root", h.Root}, args...)...)
		}
		if r := run(base, "sh", "-c", "echo out; echo err >&2; exit 3"); r.Code != 3 || r.Stdout != "out\n" || !strings.HasSuffix(r.Stderr, "err\n") {
			t.Errorf("%v", r)
		}
		if r := run(base, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"); r.Code != 137 {
			t.Errorf("%v", r)
		}
		run("-e", "A=b", "-w", "/tmp", "-u", "ann", "--rm", base, "sh", "-c", `[ "$A $PWD $(id -un)" = "b /tmp ann" ]`).OK(t)
		h.Files(map[string]string{"shared/file": "from outside\n"})
		if r := run("-v", h.Path("shared")+":/mnt:ro", base, "sh", "-c", "cat /mnt/file; touch /mnt/new"); r.Code == 0 || r.Stdout != "from outside\n" {
			t.Errorf("%v", r)
		}
		if r := run("--network=none", base, "sh", "-c", "ip -o addr | grep -v LOOPBACK | grep -vc ' lo '"); strings.TrimSpace(r.Stdout) != "0" {
			t.Errorf("--network=none has interfaces: %v", r)
		}
		if r := h.CairnStdin(strings.NewReader("typed\n"), "run", "--root", h.Root, "-i", base, "cat"); r.Stdout != "typed\n" {
			t.Errorf("standard input: %v", r)
		}
		run(base, "touch", "/left").OK(t)
		if r := run(base, "ls", "/left"); r.Code == 0 {
			t.Error("what one run wrote, the next one sees")
		}
		if r := run(registry.Name("none:v1"), "true"); r.Code != 125 {
			t.Errorf("an image that is not there: %v", r)
		}
	})
}
