package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cost is what one build took.
type cost struct {
	Wall, CPU time.Duration
	// Memory is the peak of the largest process, Pulled what came from the registry, in bytes.
	Memory, Pulled int64
}

func (c cost) String() string {
	return fmt.Sprintf("%6.2f s wall %6.2f s CPU %4d MB memory %4d MB pulled", c.Wall.Seconds(), c.CPU.Seconds(), c.Memory>>20, c.Pulled/1e6)
}

// target is where a build keeps its state and puts its result, "oci:FILE" or "registry:NAME".
type target struct{ store, dest string }

// measure builds once from an empty store, or once more where the workload is warm.
func (s *stage) measure(b *testing.B, w workload, round int, who string, command func(target) *exec.Cmd) cost {
	b.Helper()
	t := target{store: filepath.Join(s.dir, "stores", fmt.Sprint(w.name, "-", round, "-", who))}
	if err := os.MkdirAll(t.store, 0o700); err != nil {
		b.Fatal(err)
	}
	// buildah, as root, mounts its storage on itself.
	b.Cleanup(func() { _ = syscall.Unmount(filepath.Join(t.store, "root/overlay"), syscall.MNT_DETACH) })
	t.dest = "oci:" + filepath.Join(t.store, "out.tar")
	if w.push {
		t.dest = "registry:" + s.counter.Addr + "/" + strings.ToLower(filepath.Base(t.store))
	}
	if !w.warm {
		return s.once(b, w.name, command(t))
	}
	s.once(b, w.name, command(t))
	if w.edit != nil {
		w.edit(b, filepath.Join(s.dir, w.name))
	}
	return s.once(b, w.name, command(t))
}

// once runs a build.
func (s *stage) once(b *testing.B, name string, cmd *exec.Cmd) cost {
	b.Helper()
	s.counter.Take()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s: %v: %v\n%s", name, cmd.Args, err, out.String())
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	c := cost{Wall: time.Since(start), CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), Memory: usage.Maxrss << 10}
	for _, r := range s.counter.Take() {
		if r.Method == "GET" {
			c.Pulled += r.Received
		}
	}
	return c
}

// median is the median of each cost by itself.
func median(all []cost) cost {
	pick := func(of func(cost) int64) int64 {
		var v []int64
		for _, c := range all {
			v = append(v, of(c))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return cost{
		Wall: time.Duration(pick(func(c cost) int64 { return int64(c.Wall) })), CPU: time.Duration(pick(func(c cost) int64 { return int64(c.CPU) })),
		Memory: pick(func(c cost) int64 { return c.Memory }), Pulled: pick(func(c cost) int64 { return c.Pulled }),
	}
}

// memoryBound is what a build may take, in bytes, whatever the size of the image.
const memoryBound = 128 << 20

// footprint is the memory of a build that had memoryBound at most.
type footprint struct {
	What string
	// Cgroup says whether a memory cgroup held it to the bound: then page cache and all processes count. Else Process says how much the largest
	// process took.
	Cgroup  bool
	Process int64
	CPU     time.Duration
}

func (f footprint) String() string {
	return fmt.Sprintf("largest process %d MB, in a memory cgroup of %d MB: %t", f.Process>>20, memoryBound>>20, f.Cgroup)
}

// confined builds a workload with no more memory than the bound.
func (s *stage) confined(b *testing.B, w workload) footprint {
	dir := filepath.Join(s.dir, "confined-"+w.name)
	w.write(b, dir, s.base)
	group := memoryGroup(b)
	t := target{store: filepath.Join(s.dir, "stores", "confined-"+w.name)}
	if err := os.MkdirAll(t.store, 0o700); err != nil {
		b.Fatal(err)
	}
	t.dest = "oci:" + filepath.Join(t.store, "out.tar")
	cmd := s.cairn(t, dir)
	if group != "" {
		inner := cmd.Args
		cmd = exec.Command("sh", append([]string{"-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(group, "cgroup.procs")}, inner...)...)
	}
	c := s.once(b, w.name, cmd)
	return footprint{What: w.what, Cgroup: group != "", Process: c.Memory, CPU: c.CPU}
}

// memoryGroup makes a memory cgroup with the bound, and no swap, of either version; "" where none can be made.
func memoryGroup(b *testing.B) string {
	for _, v := range []struct{ parent, limit, swap string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"},
		{"/sys/fs/cgroup", "memory.max", "memory.swap.max"},
	} {
		if _, err := os.Stat(filepath.Join(v.parent, "cgroup.procs")); err != nil {
			continue
		}
		group, err := os.MkdirTemp(v.parent, "cairn-bench-")
		if err != nil {
			continue
		}
		b.Cleanup(func() { _ = os.Remove(group) })
		if err := os.WriteFile(filepath.Join(group, v.limit), fmt.Append(nil, memoryBound), 0o644); err != nil {
			continue
		}
		_ = os.WriteFile(filepath.Join(group, v.swap), fmt.Append(nil, map[bool]int{false: memoryBound, true: 0}[v.swap == "memory.swap.max"]), 0o644)
		return group
	}
	return ""
}
