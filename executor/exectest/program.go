package exectest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/userns"
	"github.com/cairn-build/cairn/test/people"
)

// Program is the test binary of an executor, as its TestMain makes it.
type Program struct {
	// New makes an executor with dir for what it keeps.
	New func(dir string) (executor.Executor, error)
	// People returns who the tests are run as, where they are started as root. nil is root and a user with sub-ids.
	People func() ([]people.Person, error)
	// Outside leaves out userns.Enter: the executor needs no place of its own.
	Outside bool
}

const (
	// againVar marks the test binary that has been started again as somebody.
	againVar = "CAIRN_EXECTEST_AGAIN"
	// sleepVar makes a test binary run processes that sleep, over "directory:root:seconds".
	sleepVar = "CAIRN_EXECTEST_SLEEP"
)

// Main is TestMain. It does not return.
func (p Program) Main(m *testing.M) {
	if os.Getenv(againVar) == "" && os.Getuid() == 0 {
		who, err := p.people()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(people.Again(who, againVar+"=1"))
	}
	if !p.Outside {
		done, code, err := userns.Enter()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if done {
			os.Exit(code)
		}
	}
	if place := os.Getenv(sleepVar); place != "" {
		os.Exit(p.sleep(place))
	}
	os.Exit(m.Run())
}

func (p Program) people() ([]people.Person, error) {
	if p.People != nil {
		return p.People()
	}
	u, err := people.Unprivileged()
	return []people.Person{people.Root(), u}, err
}

// sleep runs processes that sleep.
func (p Program) sleep(place string) int {
	in := strings.Split(place, ":")
	e, err := p.New(in[0])
	if err == nil {
		spec := Shell(in[1], fmt.Sprintf("sleep %s & setsid sleep %[1]s & echo ready; wait", in[2]))
		spec.Process.Stdout = os.Stdout
		err = e.Run(context.Background(), spec)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// KillLeavesNothing kills a builder with SIGKILL, at once and as a whole: no process of a RUN may be left. It returns the directory that the executor
// had, for a look at what is left there.
func (p Program) KillLeavesNothing(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	// By how long they sleep they are told from those of another test binary.
	seconds := strconv.Itoa(1_000_000 + os.Getpid())
	sleeping := func() (pids []string) {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.HasPrefix(string(b), "sleep\x00"+seconds) {
				pids = append(pids, f)
			}
		}
		return pids
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), sleepVar+"="+strings.Join([]string{dir, Root(t), seconds}, ":"))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	until(t, "two processes sleep", func() bool { return len(sleeping()) == 2 })
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	until(t, "NO PROCESS IS LEFT", func() bool { return len(sleeping()) == 0 })
	return dir
}

// until waits until a condition holds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not so: %s", what)
		}
	}
}
