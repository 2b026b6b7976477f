package registry

import (
	"sync"
	"time"
)

// SetMonolithic sets the size in bytes from which on a blob is uploaded in a chunk that can be taken up again.
func SetMonolithic(c *Client, n int64) { c.monolithic = n }

// Idle takes the clock from the client's watchdogs. What it returns gives a function by which those bark that there are by then, and no later ones: a
// request that is made again is another one's business.
func Idle(c *Client) (now func() (bark func())) {
	var mu sync.Mutex
	timers := map[*toldTimer]bool{}
	made := 0
	c.newTimer = func(_ time.Duration, f func()) timer {
		mu.Lock()
		defer mu.Unlock()
		made++
		t := &toldTimer{n: made, f: f, mu: &mu, running: timers}
		timers[t] = true
		return t
	}
	return func() func() {
		mu.Lock()
		defer mu.Unlock()
		last := made
		return func() {
			mu.Lock()
			defer mu.Unlock()
			for t := range timers {
				if t.n <= last {
					delete(timers, t)
					go t.f()
				}
			}
		}
	}
}

// toldTimer runs down when it is told.
type toldTimer struct {
	n       int
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
