package main

import "testing"

// The limit holds the collector back in small builds and never gets in the way of large ones.
func TestMemoryLimit(t *testing.T) {
	for live, want := range map[uint64]int64{0: softMemory, 40 << 20: softMemory, 400 << 20: 516 << 20} {
		if got := memoryLimit(live); got != want {
			t.Errorf("with %d bytes in use the limit is %d, not %d", live, got, want)
		}
	}
}
