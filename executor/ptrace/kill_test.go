package ptrace_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/executor/exectest"
	"github.com/cairn-build/cairn/executor/ptrace"
)

// busyVar makes this test binary a builder for TestKillAtRandom: "DIRECTORY:ROOT".
const busyVar = "PTRACE_TEST_BUSY"

// busy runs processes that are born and execute all the time.
func busy(place string) int {
	dir, root, _ := strings.Cut(place, ":")
	e, err := ptrace.New(ptrace.Options{Dir: dir})
	if err == nil {
		spec := exectest.Shell(root, `work() { while :; do sh -c 'cat /etc/passwd; (ls / &) | cat' >/dev/null; done; }; work & setsid sh -c 'while :; do ls >/dev/null; done' & work`)
		err = e.Run(context.Background(), spec)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// TestKillAtRandom kills builders with SIGKILL at any moment: while the supervisor starts, while tasks are made, stopped, or wait for an answer. None
// may be left.
func TestKillAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	met := 0
	for range 6 {
		dir, root := t.TempDir(), exectest.Root(t)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), busyVar+"="+dir+":"+root)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(random.Int64N(int64(time.Second))))
		met += len(using(dir, root))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		left := using(dir, root)
		for end := time.Now().Add(30 * time.Second); len(left) > 0; left = using(dir, root) {
			if time.Now().After(end) {
				t.Fatalf("left after the kill: %v", left)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if met == 0 {
		t.Error("no kill met a process")
	}
}

// using lists the processes that execute, are in, or have open what is in some directories.
func using(dirs ...string) (out []string) {
	for _, pattern := range []string{"exe", "cwd", "fd/*"} {
		links, _ := filepath.Glob("/proc/[0-9]*/" + pattern)
		for _, link := range links {
			to, _ := os.Readlink(link)
			for _, dir := range dirs {
				if strings.HasPrefix(to, dir+"/") && !strings.HasPrefix(link, fmt.Sprintf("/proc/%d/", os.Getpid())) {
					out = append(out, link+" -> "+to)
				}
			}
		}
	}
	return out
}
