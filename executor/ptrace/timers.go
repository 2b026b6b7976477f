package ptrace

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// lateness is by how much the supervisor's timers may be late. While any of its threads is in the kernel for long, as one that waits for
// calls always is, Go's runtime looks every 20 µs for threads to take work from, which was a fifth of the CPU time of a step with many
// calls. Here no work waits: there are more processors (GOMAXPROCS) than threads that answer.
const lateness = 5 * time.Millisecond

// withLateTimers has the program that start starts be late (PR_SET_TIMERSLACK, prctl(2)): its threads inherit it. Where that is refused the
// program costs what it costs.
func withLateTimers(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(lateness), 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // as it was when the thread began
	return start()
}

// timerSlack is how late timers of the calling thread may be, in nanoseconds; 1 stands for not at all, since 0 would set what the thread began with.
func timerSlack() uintptr {
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return uintptr(50 * time.Microsecond) // the kernel's own
	}
	return uintptr(max(slack, 1))
}
