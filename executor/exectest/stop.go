package exectest

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/executor"
)

// Cancelling ends processes that heed SIGTERM at once and the others after the grace, and says that it was cancelled.
func testCancel(t *testing.T, e executor.Executor) {
	root := Root(t)
	for _, c := range []struct {
		name, script string
		atLeast      time.Duration
		wantOut      string
	}{
		{"a shell waiting for a child", "echo ready; sleep 1000; exit 1", 0, ""},
		{"a process of its own", "echo ready; exec sleep 1000", 0, ""},
		{"a handler", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done", 0, "bye\n"},
		{"deaf", "trap '' TERM; echo ready; while :; do sleep 1000; done", time.Second, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			spec := Shell(root, c.script)
			spec.Grace = time.Second
			r, w := io.Pipe()
			spec.Process.Stdout = w
			done := make(chan error, 1)
			go func() { done <- e.Run(ctx, spec); w.Close() }()
			buf := make([]byte, 6)
			if _, err := io.ReadFull(r, buf); err != nil {
				t.Fatalf("%v: %v", err, <-done)
			}
			start := time.Now()
			cancel()
			rest, _ := io.ReadAll(r)
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want one that says cancelled", err)
			}
			if d := time.Since(start); d < c.atLeast || d > c.atLeast+5*time.Second {
				t.Errorf("ended after %s", d)
			}
			if string(rest) != c.wantOut {
				t.Errorf("last words %q, want %q", rest, c.wantOut)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Run(ctx, Shell(root, "true")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

// A process that is stopped, and not cancelled, gets the signal that its image wants and has ended as it did.
func testStop(t *testing.T, e executor.Executor) {
	root := Root(t)
	for _, c := range []struct {
		name string
		stop executor.Stop
		want string
	}{
		{"the image's signal", executor.Stop{}, "one\n"},
		{"another one", executor.Stop{Signal: int(syscall.SIGUSR2)}, "two\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			spec := Shell(root, "trap 'echo one; exit 3' USR1; trap 'echo two; exit 3' USR2; trap 'echo term; exit 4' TERM; echo ready; while :; do sleep 0.05; done")
			spec.StopSignal = int(syscall.SIGUSR1)
			r, w := io.Pipe()
			spec.Process.Stdout = w
			done := make(chan error, 1)
			go func() { done <- e.Run(ctx, spec); w.Close() }()
			if _, err := io.ReadFull(r, make([]byte, 6)); err != nil {
				t.Fatalf("%v: %v", err, <-done)
			}
			c.stop.Grace = time.Minute
			cancel(&c.stop)
			rest, _ := io.ReadAll(r)
			err := <-done
			var exit *executor.ExitError
			if !errors.As(err, &exit) || exit.Code != 3 || string(rest) != c.want {
				t.Errorf("last words %q, %v; want %q and exit code 3", rest, err, c.want)
			}
		})
	}
}

// A process that detaches itself ends with the run, and the run does not wait for it.
func testNothingSurvives(t *testing.T, e executor.Executor) {
	root := Root(t)
	start := time.Now()
	output(t, e, Shell(root, "setsid sleep 4321 & (sleep 4321 &) ; nohup sleep 4321 >/dev/null 2>&1 & echo started"))
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("the run took %s", d)
	}
	out, err := exec.Command("sh", "-c", "grep -l 4321 /proc/[0-9]*/cmdline 2>/dev/null | grep -v -e /proc/$$/").Output()
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.Sys().(syscall.WaitStatus).ExitStatus() == 1 {
		err = nil
	}
	for p := range strings.FieldsSeq(string(out)) {
		if b, rerr := os.ReadFile(p); rerr == nil && strings.HasPrefix(string(b), "sleep") {
			t.Errorf("%s IS STILL RUNNING! %v", p, err)
		}
	}
}
