package test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
	"golang.org/x/sys/unix"
)

// TestDetached follows a container that is left running: run -d, ps, logs, stop, rm.
func TestDetached(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		h.Cairn("pull", "-q", base).OK(t)
		id := strings.TrimSpace(h.Cairn("run", "-d", "--name", "clock", base, "sh", "-c", "trap 'echo bye >&2; exit 5' TERM; echo begun; while :; do sleep 0.1; done").OK(t).Stdout)
		if len(id) != 64 {
			t.Fatalf("run -d prints %q", id)
		}
		ps := func(args ...string) string {
			t.Helper()
			return h.Cairn(append([]string{"ps"}, args...)...).OK(t).Stdout
		}
		if got := ps(); !strings.Contains(got, id[:12]) || !strings.Contains(got, "Up ") || !strings.Contains(got, "clock") {
			t.Errorf("ps prints\n%s", got)
		}
		harness.WaitFor(t, 20*time.Second, "its output", func() bool { return h.Cairn("logs", "clock").OK(t).Stdout == "begun\n" })
		h.Cairn("rm", "clock").Fails(t, 1, "is running")
		h.Cairn("run", "-d", "--name", "clock", base, "true").Fails(t, 125, "already")
		h.Cairn("stop", id[:10]).OK(t)
		h.Cairn("stop", "clock").OK(t) // there is nothing to stop any more
		if got := ps("--all", "--format", "{{.Names}} {{.State}} {{.Status}}"); !strings.HasPrefix(got, "clock exited Exited (5)") {
			t.Errorf("after stop, ps prints %q", got)
		}
		if got := ps("-q"); got != "" {
			t.Errorf("ps without --all prints %q", got)
		}
		h.Files(map[string]string{"Dockerfile": "FROM " + base + "\nSTOPSIGNAL SIGUSR1\nCMD [\"sh\", \"-c\", \"trap 'exit 6' USR1; echo begun; while :; do sleep 0.1; done\"]\n"})
		h.Cairn("build", "-q", "-t", "usr1", ".").OK(t)
		h.Cairn("run", "-d", "--name", "usr1", "usr1").OK(t)
		harness.WaitFor(t, 20*time.Second, "its output", func() bool { return h.Cairn("logs", "usr1").OK(t).Stdout == "begun\n" })
		h.Cairn("stop", "usr1").OK(t)
		if got := h.Cairn("inspect", "-f", "{{.State.ExitCode}}", "usr1").OK(t).Stdout; got != "6\n" {
			t.Errorf("stopped by another signal than its image's: exit code %s", got)
		}
		h.Cairn("rm", "usr1").OK(t)
		h.Cairn("logs", "-n", "x", "clock").Fails(t, 2, "--tail")
		if got := h.Cairn("inspect", "-f", "{{.Id}} {{.Name}} {{.State.Status}} {{.State.ExitCode}} {{.Config.Image}} {{.Path}}", "clock").OK(t).Stdout; got !=
			id+" /clock exited 5 "+base+" sh\n" {
			t.Errorf("inspect shows %q", got)
		}
		if got := h.Cairn("inspect", "--type=image", "-f", "{{.Os}}", base).OK(t).Stdout; got != "linux\n" {
			t.Errorf("inspect of the image shows %q", got)
		}
		h.Cairn("inspect", "--type=container", base).Fails(t, 1, "no such container")
		logs := h.Cairn("logs", "--follow", "clock").OK(t)
		if logs.Stdout != "begun\n" || !strings.HasSuffix(logs.Stderr, "bye\n") {
			t.Errorf("the logs are %q and %q", logs.Stdout, logs.Stderr)
		}
		h.Cairn("rm", "clock").OK(t)
		h.Cairn("logs", "clock").Fails(t, 1, "no such container")
		if got := ps("-aq"); got != "" {
			t.Errorf("after rm, ps prints %q", got)
		}
	})
}

// TestDetachedEnds: rm --force kills, --rm leaves nothing, and what cannot start is an error and leaves nothing.
func TestDetachedEnds(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		id := strings.TrimSpace(h.Cairn("run", "--detach", base, "sleep", "1000").OK(t).Stdout)
		h.Cairn("rm", "--force", id).OK(t)
		h.Cairn("run", "--detach", "--rm", base, "true").OK(t)
		harness.WaitFor(t, 20*time.Second, "--rm removes it", func() bool { return h.Cairn("ps", "-aq").OK(t).Stdout == "" })
		h.Cairn("run", "-d", "--name", "lines", base, "sh", "-c", "echo one; echo two; printf thr; sleep 0.1; echo ee").OK(t)
		h.Cairn("logs", "-f", "lines").OK(t)
		for n, want := range map[string]string{"0": "", "1": "three\n", "2": "two\nthree\n", "9": "one\ntwo\nthree\n", "all": "one\ntwo\nthree\n"} {
			if r := h.Cairn("logs", "--follow", "--tail", n, "lines").OK(t); r.Stdout != want {
				t.Errorf("logs --tail %s shows %q", n, r.Stdout)
			}
		}
		h.Cairn("rm", "lines").OK(t)
		h.Cairn("run", "-d", base, "/no/such").Fails(t, 127, "/no/such")
		h.Cairn("run", "-d", base, "/etc/passwd").Fails(t, 126, "/etc/passwd")
		h.Cairn("run", "-d", "-i", base, "cat").Fails(t, 2, "--detach")
		if got := h.Cairn("ps", "-aq").OK(t).Stdout; got != "" {
			t.Errorf("left are %q", got)
		}
	})
}

// TestRunAsInDocker: the host is called by the ID, ps shows the whole command.
func TestRunAsInDocker(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	if got := h.Cairn("run", base, "hostname").OK(t).Stdout; !regexp.MustCompile(`^[0-9a-f]{12}\n$`).MatchString(got) {
		t.Errorf("hostname prints %q", got)
	}
	if got := h.Cairn("run", "--hostname", "own", base, "hostname").OK(t).Stdout; got != "own\n" {
		t.Errorf("with --hostname it prints %q", got)
	}
	id := strings.TrimSpace(h.Cairn("run", "-d", "--entrypoint", "sh", base, "-c", "hostname; echo two >&2; echo three; printf four").OK(t).Stdout)
	harness.WaitFor(t, 20*time.Second, "its end", func() bool { return h.Cairn("ps", "-q").OK(t).Stdout == "" })
	if r := h.Cairn("logs", id).OK(t); r.Stdout != id[:12]+"\nthree\nfour" || r.Stderr != "two\n" {
		t.Errorf("logs: %q and %q", r.Stdout, r.Stderr)
	}
	h.Cairn("logs", "-t", id).Fails(t, 2, "without its times")
	if got := h.Cairn("ps", "-a", "--no-trunc", "--format", "{{.Command}}").OK(t).Stdout; got != `"sh -c hostname; echo two >&2; echo three; printf four"`+"\n" {
		t.Errorf("ps shows %q", got)
	}
}

// TestUnshare: an ordinary user is root there, and the program's exit code is the command's.
func TestUnshare(t *testing.T) {
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		got := h.Cairn("unshare", "sh", "-c", "id -u; touch f; chown 5:6 f; stat -c %u:%g f; rm f; exit 7")
		if got.Code != 7 || got.Stdout != "0\n5:6\n" {
			t.Errorf("%v", got)
		}
		h.Cairn("unshare", "/no/such").Fails(t, 125, "/no/such")
	})
}

// TestDetachedInStore: system df counts containers, rmi keeps the image of one, and system prune removes those that have ended.
func TestDetachedInStore(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		h.Cairn("pull", "-q", base).OK(t)
		id := strings.TrimSpace(h.Cairn("run", "-d", "--name", "one", base, "sh", "-c", "echo hi; trap exit TERM; while :; do sleep 0.1; done").OK(t).Stdout)
		df := func() string {
			t.Helper()
			return h.Cairn("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}} {{.Reclaimable}}").OK(t).Stdout
		}
		if got := df(); !strings.HasPrefix(got, "Images 1 1 ") || !strings.Contains(got, "\nContainers 1 1 0B (0%)\n") {
			t.Errorf("while it runs, system df shows\n%s", got)
		}
		h.Cairn("system", "prune", "-f").Fails(t, 1, "cairn ps")
		h.Cairn("rmi", base).Fails(t, 1, "used by container one", "cairn rm one")
		h.Cairn("stop", "one").OK(t)
		if got := df(); !strings.Contains(got, "\nContainers 1 0 ") || !strings.Contains(got, "(100%)\nLocal Volumes") {
			t.Errorf("when it has ended, system df shows\n%s", got)
		}
		h.Cairn("rmi", base).Fails(t, 1, "used by container one")
		for _, keeps := range []string{"until=24h", "label=a"} {
			if got := h.Cairn("system", "prune", "-f", "--filter", keeps).OK(t).Stdout; strings.Contains(got, "Deleted") {
				t.Errorf("prune --filter %s removes\n%s", keeps, got)
			}
		}
		if got := h.Cairn("system", "prune", "-f").OK(t).Stdout; !strings.HasPrefix(got, "Deleted Containers:\n"+id+"\n\n") {
			t.Errorf("system prune prints\n%s", got)
		}
		if got := df(); !strings.Contains(got, "\nContainers 0 0 0B\n") {
			t.Errorf("after prune, system df shows\n%s", got)
		}
		h.Cairn("rmi", base).OK(t)
	})
}

// TestRunTerminal: with -i and -t the command has a terminal, of the caller's size, and what is typed reaches it.
func TestRunTerminal(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		h.Cairn("pull", "-q", base).OK(t)
		master, slave := openTerminal(t)
		cmd := h.CairnCommand("run", "-i", "-t", "--rm", base, "sh", "-c", "tty; stty size; echo prompt; read x; echo got $x; exit 6")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = false, true, true
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		slave.Close()
		defer time.AfterFunc(harness.Timeout, func() { _ = cmd.Process.Kill() }).Stop()
		var shown strings.Builder
		typed := false
		for buf := make([]byte, 256); ; {
			n, err := master.Read(buf)
			shown.Write(buf[:n])
			if err != nil {
				break // nobody has the other side open any more
			}
			if !typed && strings.Contains(shown.String(), "prompt\r\n") {
				typed = true
				if _, err := master.WriteString("hello\r"); err != nil {
					t.Error(err)
				}
			}
		}
		_ = cmd.Wait()
		if code, want := cmd.ProcessState.ExitCode(), "/dev/pts/0\r\n31 79\r\nprompt\r\nhello\r\ngot hello\r\n"; code != 6 || shown.String() != want {
			t.Errorf("exit code %d; the terminal shows %q, want %q", code, shown.String(), want)
		}
	})
}

// openTerminal makes a terminal of 31 lines and 79 columns.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	n, nerr := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil || nerr != nil {
		t.Fatal(err, nerr)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err == nil {
		err = unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 31, Col: 79})
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}
