package engine_test

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/cairn-build/cairn/test/torture"
)

// held is what a process of this library holds on to.
type held struct {
	goroutines, descriptors int
	kib                     int64
}

func holding(t *testing.T) held {
	t.Helper()
	runtime.GC()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return held{runtime.NumGoroutine(), len(fds), kib}
}

// TestSoak is T11: steps one after another in one process and its worker leave no goroutine and no descriptor, and the process does not grow.
func TestSoak(t *testing.T) {
	steps := torture.Times(20, 1000)
	harness.Again(t, func(t *testing.T, p harness.Place) {
		e := start(t, p)
		chain := busybox(t, e, p)
		step := func() {
			out, _, _ := run(t, e, sh(chain, "echo x > /x; echo fine"))
			if out != "fine\n" {
				t.Fatalf("the step says %q", out)
			}
		}
		for range 10 {
			step()
		}
		before := holding(t)
		for range steps {
			step()
		}
		// What is on its way out gets a moment.
		after := holding(t)
		for end := time.Now().Add(5 * time.Second); (after.goroutines > before.goroutines || after.descriptors > before.descriptors) && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond)
			after = holding(t)
		}
		if after.goroutines > before.goroutines || after.descriptors > before.descriptors {
			t.Errorf("after %d steps there are %+v, before them there were %+v", steps, after, before)
		}
		// The runtime gives memory back when it likes.
		if grown := after.kib - before.kib; grown > 16<<10 {
			t.Errorf("%d steps grew the process by %d KiB", steps, grown)
		}
		torture.Figure(t, "T11", "%d steps one after another in one process (user %d): %d goroutines and %d descriptors before and %d and %d after, memory %d and %d KiB",
			steps, os.Getuid(), before.goroutines, before.descriptors, after.goroutines, after.descriptors, before.kib, after.kib)
	})
}
