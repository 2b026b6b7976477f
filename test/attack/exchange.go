package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Exchanger is somebody with the right to rename what the victim works on: it exchanges names for a symlink and back, from a thread of its own, as
// often as it can.
type Exchanger struct {
	t     testing.TB
	link  string
	to    string
	names atomic.Pointer[[]string]
	won   atomic.Int64
	spare int

	once       sync.Once
	stop, done chan struct{}
}

// Exchange begins, with nothing to exchange yet, and ends with the test at the latest. The link leads to a target; it is kept in a directory of the same file
// system as the names.
func Exchange(t testing.TB, dir, target string) *Exchanger {
	t.Helper()
	x := &Exchanger{t: t, link: filepath.Join(dir, "exchanged"), to: target, stop: make(chan struct{}), done: make(chan struct{})}
	x.At()
	go x.run()
	t.Cleanup(func() { x.Stop() })
	return x
}

// At says which names are exchanged from now on. Those that are not there are waited for.
func (x *Exchanger) At(names ...string) { x.names.Store(&names) }

// Stop ends it. A test in which nothing was exchanged has shown nothing, and fails.
func (x *Exchanger) Stop() {
	x.t.Helper()
	x.once.Do(func() {
		close(x.stop)
		<-x.done
		if x.won.Load() == 0 {
			x.t.Error("the attacker exchanged nothing")
		}
	})
}

func (x *Exchanger) run() {
	defer close(x.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case <-x.stop:
			return
		default:
		}
		names := *x.names.Load()
		for _, name := range names {
			x.ready()
			if x.exchange(name) == nil {
				x.won.Add(1)
				_ = x.exchange(name)
			}
		}
		if len(names) == 0 {
			runtime.Gosched()
		}
	}
}

func (x *Exchanger) exchange(name string) error {
	return unix.Renameat2(unix.AT_FDCWD, x.link, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE)
}

// ready makes sure that the link is one: where the victim has removed it in the place of what it stood for, that is still here.
func (x *Exchanger) ready() {
	if to, err := os.Readlink(x.link); err == nil && to == x.to {
		return
	}
	x.spare++
	_ = os.Rename(x.link, fmt.Sprint(x.link, x.spare))
	_ = os.Symlink(x.to, x.link)
}
