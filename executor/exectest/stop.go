package exectest

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/executor"
)

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
