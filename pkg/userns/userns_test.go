package userns

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/people"
	"golang.org/x/sys/unix"
)

// The test binary is the program under test when helperVar names one of helpers: it enters the place and runs it there.
const helperVar = "USERNS_TEST_HELPER"

func TestMain(m *testing.M) {
	name := os.Getenv(helperVar)
	if name == "" {
		os.Exit(m.Run())
	}
	done, code, err := Enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	if done {
		os.Exit(code)
	}
	os.Exit(helpers()[name]())
}

func helpers() map[string]func() int {
	return map[string]func() int{
		"exit7":   func() int { return 7 },
		"kill":    func() int { unix.Kill(os.Getpid(), unix.SIGTERM); select {} },
		"cat":     func() int { io.Copy(os.Stdout, os.Stdin); fmt.Fprint(os.Stderr, "err"); return 0 },
		"state":   helperState,
		"signals": helperSignals,
		"sleep":   helperSleep,
		"orphans": helperOrphans,
		"fds":     helperFDs,
	}
}

// helperState prints what the worker finds in its place, one "key value" per line.
func helperState() int {
	mode, inside := Current()
	fmt.Println("inside", inside)
	fmt.Println("map", mode.Map)
	fmt.Println("pidns", mode.PID)
	fmt.Println("obstacle", mode.Obstacle)
	fmt.Println("uid", os.Getuid(), os.Getgid())
	fmt.Println("pid", os.Getpid())
	self, _ := os.Readlink("/proc/self")
	fmt.Println("self", self)
	fmt.Println("stage", os.Getenv(stageVar) == "")
	m, _ := os.ReadFile("/proc/self/uid_map")
	fmt.Println("uidmap", len(strings.Split(strings.TrimSpace(string(m)), "\n")))
	fmt.Println("tmpfs", unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""))
	return 0
}

func helperSignals() int {
	c := make(chan os.Signal, 8)
	signal.Notify(c)
	fmt.Println("ready")
	var got []string
	for s := range c {
		if s == unix.SIGURG || s == unix.SIGCHLD {
			continue
		}
		fmt.Println(int(s.(syscall.Signal)))
		if got = append(got, s.String()); s == unix.SIGTERM {
			break
		}
	}
	return len(got)
}

// helperSleep starts a grandchild that outlives its parent, prints both pids and waits.
func helperSleep() int {
	cmd := exec.Command("sh", "-c", "setsid sleep 1000 & echo grandchild; wait")
	cmd.Stdout = os.Stdout
	if err := cmd.Start(); err != nil {
		return 1
	}
	cmd.Wait()
	return 0
}

// helperOrphans makes 20 orphans that end at once and reports how many zombies stay.
func helperOrphans() int {
	for range 20 {
		exec.Command("sh", "-c", "sh -c 'exit 0' & exit 0").Run()
	}
	for range 100 {
		time.Sleep(20 * time.Millisecond)
		if n := zombies(); n == 0 {
			return 0
		}
	}
	return zombies()
}

func zombies() int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if _, after, ok := strings.Cut(string(b), ") "); ok && strings.HasPrefix(after, "Z") {
			n++
		}
	}
	return n
}

// helperFDs reads descriptor 7, which the user passed, and lists what a child of the worker would get.
func helperFDs() int {
	b, _ := io.ReadAll(os.NewFile(7, ""))
	fmt.Println("seven", string(b))
	out, _ := exec.Command("sh", "-c", "for i in /proc/$$/fd/*; do test -e $i && echo $i; done").Output()
	fmt.Println("child", strings.Count(string(out), "/proc/"))
	return 0
}

// helper is a command that runs the test binary as one of helpers; as an ordinary user when asUser is set.
func helper(t *testing.T, name string, asUser bool) *exec.Cmd {
	t.Helper()
	exe := copySelf(t)
	cmd := exec.Command(exe)
	cmd.Dir = "/"
	if asUser {
		unprivileged(t).Become(cmd)
	}
	cmd.Env = []string{helperVar + "=" + name, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
	return cmd
}

// copySelf puts the test binary where an ordinary user can execute it.
func copySelf(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "userns-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := people.CopySelf(dir)
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// unprivileged is a user with sub-ids.
func unprivileged(t *testing.T) people.Person {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making a user needs root")
	}
	p, err := people.Unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// asBoth runs a test as root and as a user with sub-ids.
func asBoth(t *testing.T, fn func(t *testing.T, unprivileged bool)) {
	if os.Getuid() == 0 {
		t.Run("root", func(t *testing.T) { fn(t, false) })
	}
	t.Run("user", func(t *testing.T) { fn(t, true) })
}

func TestExitCodes(t *testing.T) {
	asBoth(t, func(t *testing.T, unprivileged bool) {
		for name, want := range map[string]int{"exit7": 7, "kill": 128 + 15} {
			cmd := helper(t, name, unprivileged)
			cmd.Stderr = os.Stderr
			err := cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("%s: exit code %d (%v), want %d", name, got, err, want)
			}
		}
	})
}

func state(t *testing.T, cmd *exec.Cmd) map[string]string {
	t.Helper()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		m[k] = v
	}
	return m
}

func TestPlace(t *testing.T) {
	asBoth(t, func(t *testing.T, unprivileged bool) {
		got := state(t, helper(t, "state", unprivileged))
		want := map[string]string{
			"inside": "true", "map": "", "pidns": "true", "obstacle": "", "uid": "0 0", "stage": "true", "uidmap": "1", "tmpfs": "<nil>",
		}
		if unprivileged {
			want["map"], want["uidmap"] = string(SubIDs), "2"
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s is %q, want %q", k, got[k], v)
			}
		}
		if got["pid"] == "1" || got["pid"] != got["self"] {
			t.Errorf("the worker is process %s and /proc says %s: want the same, and not 1", got["pid"], got["self"])
		}
		if mounts, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(mounts), " /mnt tmpfs") {
			t.Error("A MOUNT OF THE PLACE IS VISIBLE OUTSIDE!")
		}
	})
}

// A user whom no file knows gets a place with one id, and is told why.
func TestUserWithoutSubIDs(t *testing.T) {
	cmd := helper(t, "state", false)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
	got := state(t, cmd)
	if got["map"] != string(SingleID) || !strings.Contains(got["obstacle"], "/etc/subuid has no range for uid 54321") {
		t.Errorf("entered with map %q, obstacle %q", got["map"], got["obstacle"])
	}
}

// Root without CAP_SYS_ADMIN gets a user namespace with the ids it has.
func TestRootWithoutSysAdmin(t *testing.T) {
	cmd := helper(t, "state", false)
	cmd.Args = append([]string{"setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", cmd.Path}, cmd.Args[1:]...)
	path, err := exec.LookPath("setpriv")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = path
	got := state(t, cmd)
	if got["map"] != string(Identity) || got["uid"] != "0 0" {
		t.Errorf("entered with map %q as %s", got["map"], got["uid"])
	}
}

func TestStreamsPassThrough(t *testing.T) {
	asBoth(t, func(t *testing.T, unprivileged bool) {
		in := bytes.Repeat([]byte("context tar "), 100_000)
		cmd := helper(t, "cat", unprivileged)
		var out, errOut bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &errOut
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), in) || errOut.String() != "err" {
			t.Errorf("%d bytes in, %d out, stderr %q", len(in), out.Len(), errOut.String())
		}
	})
}

// Each signal arrives once: sent to outer alone, or to the whole process group as a terminal does.
func TestSignals(t *testing.T) {
	asBoth(t, func(t *testing.T, unprivileged bool) {
		cmd := helper(t, "signals", unprivileged)
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Setpgid = true
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(stdout)
		expect := func(want string) {
			t.Helper()
			if got, err := lines.ReadString('\n'); strings.TrimSpace(got) != want {
				t.Fatalf("the worker says %q (%v), want %q", got, err, want)
			}
		}
		expect("ready")
		sent := []unix.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH, unix.SIGUSR1}
		if !signal.Ignored(unix.SIGHUP) { // what nohup ignores nobody gets
			sent = append(sent, unix.SIGHUP)
		}
		for _, s := range sent {
			unix.Kill(cmd.Process.Pid, s)
			expect(strconv.Itoa(int(s)))
			unix.Kill(-cmd.Process.Pid, s)
			expect(strconv.Itoa(int(s)))
			time.Sleep(2 * samePress) // the time in which a second copy would be the same press
		}
		unix.Kill(-cmd.Process.Pid, unix.SIGTERM)
		expect(strconv.Itoa(int(unix.SIGTERM)))
		cmd.Wait()
		if got, want := cmd.ProcessState.ExitCode(), 2*len(sent)+1; got != want {
			t.Errorf("the worker got %d signals, want %d", got, want)
		}
	})
}

// kill -9 of any of the three processes leaves none of them, and nothing that they started.
func TestKillLeavesNothing(t *testing.T) {
	asBoth(t, func(t *testing.T, unprivileged bool) {
		for _, victim := range []string{"outer", "init", "worker"} {
			t.Run(victim, func(t *testing.T) {
				cmd := helper(t, "sleep", unprivileged)
				stdout, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				tree := descendants(cmd.Process.Pid)
				if len(tree) < 4 {
					t.Fatalf("%d descendants, want init, worker, sh and sleep", len(tree))
				}
				kill := map[string]int{"outer": cmd.Process.Pid, "init": tree[0], "worker": tree[1]}[victim]
				unix.Kill(kill, unix.SIGKILL)
				// The pipe's end of file is the death of everything that held its other end.
				if _, err := io.Copy(io.Discard, stdout); err != nil {
					t.Fatal(err)
				}
				cmd.Wait()
				for _, pid := range tree {
					waitGone(t, pid)
				}
			})
		}
	})
}

// descendants lists a process's children, their children and so on, parents first.
func descendants(pid int) []int {
	children := map[int][]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		_, after, _ := strings.Cut(string(b), ") ")
		var st string
		var ppid int
		if _, err := fmt.Sscan(after, &st, &ppid); err == nil {
			n, _ := strconv.Atoi(strings.Split(f, "/")[2])
			children[ppid] = append(children[ppid], n)
		}
	}
	var all []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		slices.Sort(children[queue[0]])
		all = append(all, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return all
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for range 200 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("PROCESS %d IS STILL ALIVE!", pid)
}

func TestOrphansAreReaped(t *testing.T) {
	asBoth(t, func(t *testing.T, unprivileged bool) {
		cmd := helper(t, "orphans", unprivileged)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			t.Errorf("zombies left: %v", err)
		}
	})
}

// What the user passes reaches the worker under its number; nothing but the three streams reaches the worker's children.
func TestDescriptors(t *testing.T) {
	asBoth(t, func(t *testing.T, unprivileged bool) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "dockerfile")
		w.Close()
		cmd := helper(t, "fds", unprivileged)
		cmd.ExtraFiles = []*os.File{r, r, r, r, r}
		got := state(t, cmd)
		if got["seven"] != "dockerfile" || got["child"] != "3" {
			t.Errorf("descriptor 7 gave %q, a child has %s descriptors", got["seven"], got["child"])
		}
	})
}

func TestSubIDs(t *testing.T) {
	file := func(content string) string {
		p := filepath.Join(t.TempDir(), "subuid")
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	tests := []struct {
		name, content string
		want          []extent
	}{
		{"by name", "other:1:2\nann:100000:65536\n", []extent{{1, 100000, 65536}}},
		{"by number", "1000:100000:65536\n", []extent{{1, 100000, 65536}}},
		{"two ranges follow each other", "ann:100000:10\n1000:300000:20\n", []extent{{1, 100000, 10}, {11, 300000, 20}}},
		{"malformed lines are passed over", "ann\nann:x:1\nann:1:-1\nann:1:0\nann:4294967295:10\n#\nann:5:6", []extent{{1, 5, 6}}},
		{"none", "bob:100000:65536\n", nil},
	}
	for _, tt := range tests {
		got, err := subIDs(file(tt.content), 1000, []string{"ann"})
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}

func TestDecodeStage(t *testing.T) {
	s := stage{kind: stageInit, initFD: 5, workerFD: 6, parent: 7, mode: Mode{Map: SubIDs, PID: true, Obstacle: "a|b"}}
	_, v, _ := strings.Cut(s.env(), "=")
	if got, err := decodeStage(v); err != nil || got != s {
		t.Errorf("decoded %+v, %v; want %+v", got, err, s)
	}
	for _, bad := range []string{"", "init", "init|x|1|1|true||", strings.Repeat("|", 6)} {
		if _, err := decodeStage(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// The ranges that a hint offers belong to nobody.
func TestFreeSubIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	for text, want := range map[string]uint64{
		"": 100000, "broken\nx:y:z\n": 100000, "a:100000:65536\n": 165536, "b:300000:10\na:100000:65536\n": 300010, "a:5:5\n": 100000,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := freeSubIDs(file); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	if got := freeSubIDs(file + ".none"); got != 100000 {
		t.Errorf("no file: %d", got)
	}
}
