package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// signalled is the cause of a context that a signal ended.
type signalled struct{ syscall.Signal }

func (s signalled) Error() string { return "stopped by " + s.String() }

// withSignals returns a context that ends at the first SIGINT, SIGTERM, SIGHUP or SIGQUIT, and is told which as its cause. The second
// ends the program where it stands: what it leaves behind is removed at the next start.
func withSignals(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	done := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case s := <-ch:
				sig := s.(syscall.Signal)
				if n > 0 {
					os.Exit(exitSignal + int(sig))
				}
				cancel(signalled{sig})
			}
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(done)
		cancel(nil)
	}
}
