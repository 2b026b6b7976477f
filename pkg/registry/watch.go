package registry

import (
	"context"
	"errors"
	"io"
	"time"
)

var errIdle = errors.New("nothing came for too long")

// watchdog cancels a request on which nothing has moved for a while.
type watchdog struct {
	timer  timer
	idle   time.Duration
	cancel context.CancelCauseFunc
	cause  func() error
}

// timer is what a watchdog needs of a *time.Timer.
type timer interface {
	Reset(time.Duration) bool
	Stop() bool
}

func newTimer(d time.Duration, f func()) timer { return time.AfterFunc(d, f) }

// watch starts a watchdog. stop must be called in the end.
func (c *Client) watch(ctx context.Context, idle time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &watchdog{
		idle:   idle,
		cancel: cancel,
		cause:  func() error { return context.Cause(ctx) },
		timer:  c.newTimer(idle, func() { cancel(errIdle) }),
	}
}

func (w *watchdog) feed() { w.timer.Reset(w.idle) }
func (w *watchdog) rest() { w.timer.Stop() }
func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// fed is a request's body: being read is a sign of life.
type fed struct {
	r   io.Reader
	dog *watchdog
}

func (f *fed) Read(p []byte) (int, error) {
	f.dog.feed()
	return f.r.Read(p)
}

// watched is an answer's body. The dog watches only while a read waits: a slow consumer is no fault of the registry's.
type watched struct {
	io.ReadCloser
	dog *watchdog
}

func (w *watched) Read(p []byte) (int, error) {
	w.dog.feed()
	n, err := w.ReadCloser.Read(p)
	w.dog.rest()
	if err != nil && err != io.EOF {
		if cause := w.dog.cause(); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (w *watched) Close() error {
	err := w.ReadCloser.Close()
	w.dog.stop()
	return err
}
