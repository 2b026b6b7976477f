package registry

import (
	"sync"
	"time"
)

// SetMonolithic sets the size in bytes from which on a blob is uploaded in a chunk that can be taken up again.
func SetMonolithic(c *Client, n int64) { c.monolithic = n }

// Idle makes the client's watchdogs bark when bark is called, however little time has passed, and not before.
func Idle(c *Client) (bark func()) {
	var mu sync.Mutex
	timers := map[*toldTimer]bool{}
	c.newTimer = func(_ time.Duration, f func()) timer {
		mu.Lock()
		defer mu.Unlock()
		t := &toldTimer{f: f, mu: &mu, running: timers}
		timers[t] = true
		return t
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		for t := range timers {
			delete(timers, t)
			go t.f()
		}
	}
}

// toldTimer runs down when it is told.
type toldTimer struct {
	f       func()
	mu      *sync.Mutex
	running map[*toldTimer]bool
}

func (t *toldTimer) Reset(time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.running[t]
	t.running[t] = true
	return was
}

func (t *toldTimer) Stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.running[t]
	delete(t.running, t)
	return was
}
