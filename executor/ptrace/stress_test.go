package ptrace_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/exectest"
)

// stressVar makes this test binary one of the programs of TestStress: "all:DURATION" or "one:DURATION:NUMBER".
const stressVar = "PTRACE_TEST_STRESS"

// TestStress has 8 processes open, rename, link and execute files at once, while signals reach them all the time. Every byte is checked, and every call
// must have happened once: no wrong content, no name too many or too few. CAIRN_STRESS is for how long; `make stress` takes minutes.
func TestStress(t *testing.T) {
	duration := 20 * time.Second
	if text := os.Getenv("CAIRN_STRESS"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	e, root := newExecutor(t), exectest.Root(t)
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "stress"), program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = e.Run(t.Context(), executor.Spec{Root: root, Process: executor.Process{
		Args: []string{"/stress"}, Env: []string{stressVar + "=all:" + duration.String()}, Stdout: &out, Stderr: &out,
	}})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Logf("%s", out.String())
	if left, _ := os.ReadDir(filepath.Join(root, "stressed")); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}

// stress is the program of TestStress.
func stress(how string) int {
	kind, rest, _ := strings.Cut(how, ":")
	text, number, _ := strings.Cut(rest, ":")
	duration, err := time.ParseDuration(text)
	if err == nil && kind == "all" {
		err = stressAll(text)
	} else if err == nil {
		err = stressOne(duration, number)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func stressAll(duration string) error {
	if err := os.Mkdir("/stressed", 0o755); err != nil {
		return err
	}
	var all []*exec.Cmd
	for i := range 8 {
		cmd := exec.Command("/stress")
		cmd.Env = []string{stressVar + "=one:" + duration + ":" + strconv.Itoa(i)}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		all = append(all, cmd)
	}
	var errs []error
	for _, cmd := range all {
		errs = append(errs, cmd.Wait())
	}
	return errors.Join(errs...)
}

// stressOne is one of the processes. A timer sends it a signal every millisecond, besides those of Go's own runtime.
func stressOne(duration time.Duration, number string) error {
	alarms := make(chan os.Signal, 1)
	signal.Notify(alarms, unix.SIGALRM)
	period := unix.Timeval{Usec: 1000}
	if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Interval: period, Value: period}); err != nil {
		return err
	}
	dir := "/stressed/" + number
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	errs := make(chan error)
	stop := time.Now().Add(duration)
	rounds := 0
	for i := range 2 { // two threads of one process
		go func() {
			for n := 0; time.Now().Before(stop); n++ {
				if err := stressRound(fmt.Sprintf("%s/%d", dir, i), fmt.Sprintf("process %s thread %d round %d\n", number, i, n)); err != nil {
					errs <- fmt.Errorf("process %s, round %d: %w", number, n, err)
					return
				}
				if i == 0 {
					rounds++
				}
			}
			errs <- nil
		}()
	}
	err := errors.Join(<-errs, <-errs)
	fmt.Printf("process %s: %d rounds\n", number, rounds)
	return errors.Join(err, os.Remove(dir))
}

// stressRound makes a file, gives it other names, reads it by each of them, here and in another program, and removes it.
func stressRound(name, content string) error {
	if err := os.WriteFile(name, []byte(content), 0o640); err != nil {
		return err
	}
	if err := errors.Join(os.Chown(name, 7, 8), os.Rename(name, name+"-b"), os.Link(name+"-b", name+"-c"), os.Symlink(name+"-c", name+"-d")); err != nil {
		return err
	}
	for _, n := range []string{name + "-b", name + "-c", name + "-d"} {
		f, err := os.Open(n)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(f)
		fi, serr := f.Stat()
		f.Close()
		if err := errors.Join(err, serr); err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if string(b) != content || st.Uid != 7 || st.Gid != 8 || st.Nlink != 2 || st.Mode&0o777 != 0o640 {
			return fmt.Errorf("%s: %q, %+v", n, b, st)
		}
	}
	out, err := exec.Command("/bin/cat", name+"-d").Output()
	if err != nil || string(out) != content {
		return fmt.Errorf("cat: %q, %w", out, err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the old name is still there: %w", err)
	}
	return errors.Join(os.Remove(name+"-d"), os.Remove(name+"-c"), os.Remove(name+"-b"))
}
