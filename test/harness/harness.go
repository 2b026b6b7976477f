// Package harness is what the end-to-end tests stand on: the program as it is shipped, users to run it as, real registries, real base
// images, other people's tools as judges, and a look at what was left behind.
//
// It needs the Debian packages that `make deps` installs. Where it is root it adds the system user cairn-test, with sub-ids, and
// leaves it there for the next run.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// tags are the build tags of the shipped program.
const tags = "seccomp netgo osusergo"

// Timeout bounds one command of a test; it is there for hangs.
const Timeout = 10 * time.Minute

// Module is the folder of go.mod.
func Module(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cairn-build/cairn").Output()
	if err != nil {
		t.Fatalf("finding the module: %v", err)
	}
	return strings.TrimSpace(string(out))
}

var binary = struct {
	sync.Once
	path string
	err  error
}{}

// Binary is the program, built once as it is shipped, where every user can run it.
func Binary(t testing.TB) string {
	t.Helper()
	binary.Do(func() {
		// Each checkout has its own, so that tests of two of them can run at once.
		module := Module(t)
		dir := filepath.Join(cacheDir(t), "bin-"+digest.FromString(module).Encoded()[:12])
		binary.path = filepath.Join(dir, "cairn")
		cmd := exec.Command("go", "build", "-trimpath", "-tags", tags,
			"-ldflags", `-s -w -linkmode external -extldflags "-static"`, "-o", binary.path, "./cmd/cairn")
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			binary.err = fmt.Errorf("building cairn: %w\n%s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

// cacheDir keeps what is expensive to make between runs, readable by every user. A checkout below a closed home directory would
// not be, so root's is in /var/cache.
func cacheDir(t testing.TB) string {
	t.Helper()
	dir := "/var/cache/cairn-test"
	if os.Getuid() != 0 {
		home, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(home, "cairn-test")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Result is how a command ended.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	Code   int
	Took   time.Duration
}

func (r Result) String() string {
	return fmt.Sprintf("%s\nexit code %d after %v\n-- stdout --\n%s\n-- stderr --\n%s", strings.Join(r.Args, " "), r.Code, r.Took, r.Stdout, r.Stderr)
}

// OK ends the test unless the command succeeded.
func (r Result) OK(t testing.TB) Result {
	t.Helper()
	if r.Code != 0 {
		t.Fatalf("unexpected failure: %v", r)
	}
	return r
}

// Fails ends the test unless the command ended with this exit code and every one of these texts on standard error.
func (r Result) Fails(t testing.TB, code int, texts ...string) Result {
	t.Helper()
	if r.Code != code {
		t.Fatalf("exit code %d wanted: %v", code, r)
	}
	for _, text := range texts {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("standard error without %q: %v", text, r)
		}
	}
	return r
}

// Run runs a command of this machine and ends the test if it fails.
func Run(t testing.TB, args ...string) string {
	t.Helper()
	return Execute(t, exec.Command(args[0], args[1:]...)).OK(t).Stdout
}

// Try runs a command of this machine.
func Try(t testing.TB, args ...string) Result {
	t.Helper()
	return Execute(t, exec.Command(args[0], args[1:]...))
}

// Execute runs a command that the test has put together, and collects what it writes.
func Execute(t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A process that outlives its parent and keeps the pipes must not hang the test.
	cmd.WaitDelay = 10 * time.Second
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %v: %v", cmd.Args, err)
	}
	timer := time.AfterFunc(Timeout, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	err := cmd.Wait()
	timer.Stop()
	r := Result{Args: cmd.Args, Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode(), Took: time.Since(start)}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %v: %v", r, err)
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		r.Code = 128 + int(status.Signal())
	}
	return r
}

// WriteFiles writes a folder's files; a name that ends with "/" is a folder. A mode can follow the name: "run.sh:0755".
func WriteFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		mode := os.FileMode(0o644)
		if n, m, ok := strings.Cut(name, ":"); ok {
			name = n
			if _, err := fmt.Sscanf(m, "%o", &mode); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
}

// WaitFor waits until a condition holds, and ends the test when it does not within the limit.
func WaitFor(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not so after %v: %s", limit, what)
		}
	}
}

// background starts a server and stops it at the end of the test.
func background(t testing.TB, log io.Writer, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatalf("starting %v: %v", args, err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
}
