package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// softMemory is how many bytes the collector tries to stay below, where what is in use leaves it room: builds are to do with 128 MiB, of which the
// executable takes its part. Most builds never get near it.
const softMemory = 96 << 20

// boundMemory sets a soft limit, unless GOMEMLIMIT does. The limit goes up with what is in use: a collector that cannot keep to one would take half
// of the time for nothing.
func boundMemory() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		followMemory([]metrics.Sample{{Name: "/gc/heap/live:bytes"}})
	}
}

// followMemory sets the limit by what the collector has found in use, now and whenever it has run.
func followMemory(live []metrics.Sample) {
	metrics.Read(live)
	debug.SetMemoryLimit(memoryLimit(live[0].Value.Uint64()))
	runtime.AddCleanup(new([]metrics.Sample), followMemory, live)
}

// memoryLimit leaves a quarter of what is in use as room, and something for stacks and the collector itself.
func memoryLimit(live uint64) int64 {
	return max(softMemory, int64(live+live/4)+16<<20)
}
