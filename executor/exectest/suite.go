package exectest

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

// Suite runs every test against the executors that newExecutor makes.
//
// without names the cases that an executor does not meet; whoever gives them says why beside them.
func Suite(t *testing.T, newExecutor func(t testing.TB) executor.Executor, without ...string) {
	for _, c := range []struct {
		name string
		fn   func(t *testing.T, e executor.Executor)
	}{
		{"ExitCodes", testExitCodes},
		{"CannotExecute", testCannotExecute},
		{"BadSpecs", testBadSpecs},
		{"Environment", testEnvironment},
		{"WorkingDirectory", testWorkingDirectory},
		{"Users", testUsers},
		{"BadUsers", testBadUsers},
		{"HostileUserFiles", testHostileUserFiles},
		{"Streams", testStreams},
		{"Stdin", testStdin},
		{"Terminal", testTerminal},
		{"OutputWhileRunning", testOutputWhileRunning},
		{"Flood", testFlood},
		{"Cancel", testCancel},
		{"Stop", testStop},
		{"Concurrent", testConcurrent},
		{"NothingLeftInRoot", testNothingLeftInRoot},
		{"EtcFiles", testEtcFiles},
		{"Mounts", testMounts},
		{"TmpfsSize", testTmpfsSize},
		{"MountStubs", testMountStubs},
		{"NetworkNone", testNetworkNone},
		{"NetworkDefault", testNetworkDefault},
		{"Ulimits", testUlimits},
		{"Umask", testUmask},
		{"Capabilities", testCapabilities},
		{"Insecure", testInsecure},
		{"Seccomp", testSeccomp},
		{"Dev", testDev},
		{"ShmSize", testShmSize},
		{"Protected", testProtected},
		{"Namespaces", testNamespaces},
		{"Devices", testNoDeviceAccess},
		{"Descriptors", testDescriptors},
		{"HostilePaths", testHostilePaths},
		{"HostileCleanUp", testHostileCleanUp},
		{"HostileMountTargets", testHostileMountTargets},
		{"ExecutableUnchanged", testExecutableUnchanged},
		{"NothingSurvives", testNothingSurvives},
	} {
		if !slices.Contains(without, c.name) {
			t.Run(c.name, func(t *testing.T) { c.fn(t, newExecutor(t)) })
		}
	}
}

func testExitCodes(t *testing.T, e executor.Executor) {
	root := Root(t)
	for _, c := range []struct {
		script       string
		code, signal int
	}{
		{"exit 0", 0, 0}, {"exit 1", 1, 0}, {"exit 255", 255, 0}, {"exit 137", 137, 0},
		{"sh -c 'kill -9 $$'; exit $?", 137, 0},
	} {
		_, _, err := run(t, e, Shell(root, c.script))
		var ee *executor.ExitError
		if errors.As(err, &ee) && ee.Signal != c.signal {
			t.Errorf("%q: signal %d, want %d", c.script, ee.Signal, c.signal)
		}
		if got := exitCode(err); got != c.code {
			t.Errorf("%q: exit code %d (%v), want %d", c.script, got, err, c.code)
		}
	}
}

func testCannotExecute(t *testing.T, e executor.Executor) {
	root := Root(t)
	must(t, os.WriteFile(filepath.Join(root, "plain"), []byte("text"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "garbage"), []byte("\x7fELF?"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "script"), []byte("#!/no/such/interpreter\n"), 0o755))
	for _, c := range []struct {
		command string
		code    int
		text    string
	}{
		{"nonsense", 127, `exec: "nonsense": executable file not found in $PATH`},
		{"/no/such", 127, `exec: "/no/such": stat /no/such: no such file or directory`},
		{"/etc/passwd/x", 127, "not a directory"},
		{"/plain", 126, `exec: "/plain": permission denied`},
		{"/etc", 126, `exec: "/etc": is a directory`},
		{"/garbage", 255, ""},
		{"/script", 255, ""},
	} {
		spec := Shell(root, "")
		spec.Process.Args = []string{c.command}
		_, _, err := run(t, e, spec)
		if got := exitCode(err); got != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: exit code %d, %v; want %d and %q", c.command, got, err, c.code, c.text)
		}
		var exit *executor.ExitError
		if c.text != "" && (!errors.As(err, &exit) || !strings.Contains(exit.Reason, c.text)) {
			t.Errorf("%s: the reason of %v is not %q", c.command, err, c.text)
		}
	}
}

// What is unknown is an error, never a default (GHSA-7236-3392-c5c6).
func testBadSpecs(t *testing.T, e executor.Executor) {
	root := Root(t)
	for name, change := range map[string]func(*executor.Spec){
		"no command":         func(s *executor.Spec) { s.Process.Args = nil },
		"empty command":      func(s *executor.Spec) { s.Process.Args = []string{""} },
		"network":            func(s *executor.Spec) { s.Network = "bridge" },
		"security":           func(s *executor.Spec) { s.Security = "privileged" },
		"relative directory": func(s *executor.Spec) { s.Process.Dir = "x" },
		"mount type":         func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: "nfs", Source: "/", Target: "/mnt"}} },
		"relative target":    func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "mnt"}} },
		"target root":        func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/"}} },
		"target root, too":   func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/etc/.."}} },
		"no source": func(s *executor.Spec) {
			s.Mounts = []executor.Mount{{Type: executor.Bind, Source: "/no/such", Target: "/mnt"}}
		},
		"ulimit":            func(s *executor.Spec) { s.Ulimits = []executor.Ulimit{{Name: "nonsense", Soft: 1, Hard: 1}} },
		"soft above hard":   func(s *executor.Spec) { s.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 9, Hard: 1}} },
		"no root":           func(s *executor.Spec) { s.Root = filepath.Join(s.Root, "none") },
		"file as directory": func(s *executor.Spec) { s.Process.Dir = "/etc/passwd" },
	} {
		spec := Shell(root, "echo ran")
		change(&spec)
		before := tree(t, root)
		out, _, err := run(t, e, spec)
		if exitCode(err) != -1 || out != "" {
			t.Errorf("%s: output %q, error %v; want nothing run and an error", name, out, err)
		}
		sameTree(t, name, before, tree(t, root))
	}
}

func testEnvironment(t *testing.T, e executor.Executor) {
	t.Setenv("OUTSIDE", "leaked")
	root := Root(t)
	for _, c := range []struct {
		name string
		env  []string
		user string
		want string
	}{
		{"given, PATH and HOME", []string{"A=1", "PATH=/bin", "HOME=/x"}, "", "A=1 HOME=/x PATH=/bin"},
		{"HOME of root", []string{"PATH=/bin"}, "", "HOME=/root PATH=/bin"},
		{"HOME of a user", []string{"PATH=/bin"}, "ann", "HOME=/home/ann PATH=/bin"},
		{"HOME of nobody known", []string{"PATH=/bin"}, "4242", "HOME=/ PATH=/bin"},
		{"an empty HOME is none", []string{"PATH=/bin", "HOME="}, "ann", "HOME=/home/ann PATH=/bin"},
		{"the last value wins", []string{"PATH=/bin", "HOME=/", "A=1", "A=2"}, "", "A=2 HOME=/ PATH=/bin"},
		{"values are taken as they are", []string{"PATH=/bin", "HOME=/", "A=$B  c=d"}, "", "A=$B  c=d HOME=/ PATH=/bin"},
	} {
		spec := Shell(root, "")
		spec.Process.Args = []string{"/bin/sh", "-c", "env | grep -v -e ^PWD= -e ^SHLVL= | sort"}
		spec.Process.Env, spec.Process.User = c.env, c.user
		if got := strings.ReplaceAll(output(t, e, spec), "\n", " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	spec := Shell(root, "echo $PATH")
	spec.Process.Env = nil
	if got, want := output(t, e, spec), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"; got != want {
		t.Errorf("the default PATH is %q, want %q", got, want)
	}
}

func testWorkingDirectory(t *testing.T, e executor.Executor) {
	root := Root(t)
	must(t, os.Symlink("/home/ann", filepath.Join(root, "link")))
	for dir, want := range map[string]string{"": "/", "/": "/", "/home/ann": "/home/ann", "/link": "/home/ann", "/home/../etc": "/etc"} {
		spec := Shell(root, "")
		spec.Process.Args, spec.Process.Dir = []string{"/bin/pwd", "-P"}, dir
		if got := output(t, e, spec); got != want {
			t.Errorf("in %q: %q, want %q", dir, got, want)
		}
	}
}

// The table is BuildKit's and docker's behaviour: all groups of a user without a group, one group with one.
func testUsers(t *testing.T, e executor.Executor) {
	root := Root(t)
	for _, c := range []struct{ user, uid, gid, groups string }{
		{"", "0", "0", "0 4"},
		{"root", "0", "0", "0 4"},
		{"0", "0", "0", "0 4"},
		{"ann", "1000", "1001", "1001 50 51"},
		{"1000", "1000", "1001", "1001 50 51"},
		{"bob", "1002", "1002", "1002 50"},
		{"ann:staff", "1000", "50", "50"},
		{"ann:7", "1000", "7", "7"},
		{"1000:7", "1000", "7", "7"},
		{"4242", "4242", "0", "0"},
		{"4242:4343", "4242", "4343", "4343"},
		{"4242:extra", "4242", "51", "51"},
	} {
		spec := Shell(root, "id -u; id -g; id -G")
		spec.Process.User = c.user
		if got, want := strings.Fields(output(t, e, spec)), c.uid+" "+c.gid+" "+c.groups; strings.Join(got, " ") != want {
			t.Errorf("user %q: %v, want %s", c.user, got, want)
		}
	}
}

// No value becomes root by accident (CVE-2024-40635, CVE-2026-46680).
func testBadUsers(t *testing.T, e executor.Executor) {
	root := Root(t)
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd+"big:x:4294967296:0::/:\nneg:x:-1:0::/:\n"), 0o644))
	for _, user := range []string{
		"nobody-here", "ann:no-such-group", "2147483648", "4294967296", "4294967295", "-1", "+0", "0x0", "99999999999", "99999999999999999999",
		"0:2147483648", "0:-1", "0:+0", "1:2:3", ":0", ":", " 0", "0 ", "big", "neg", "ann:", "0:0:",
	} {
		spec := Shell(root, "id -u")
		spec.Process.User = user
		out, _, err := run(t, e, spec)
		if user == "ann:" { // docker takes an empty group for none
			if strings.TrimSpace(out) != "1000" {
				t.Errorf("user %q: ran as %q, %v", user, out, err)
			}
			continue
		}
		if exitCode(err) != -1 || out != "" {
			t.Errorf("USER %q RAN AS %s! %v", user, out, err)
		}
	}
	spec := Shell(root, "true")
	spec.Process.User = "foo"
	if _, _, err := run(t, e, spec); err == nil || !strings.Contains(err.Error(), "unable to find user foo: no matching entries in passwd file") {
		t.Errorf("unknown user: %v", err)
	}
}

// The user tables come from the image: a FIFO, a link to the outside, a device or a huge file must neither stop the
// builder nor fill its memory nor be read through (CVE-2024-9676, GHSA-72x6-4j93-7w86).
func testHostileUserFiles(t *testing.T, e executor.Executor) {
	outside := canary(t)
	for name, plant := range map[string]func(path string) error{
		"fifo":        func(p string) error { return mkfifo(p) },
		"directory":   func(p string) error { return os.Mkdir(p, 0o755) },
		"link loop":   func(p string) error { return os.Symlink("passwd", p) },
		"huge":        func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o644), os.Truncate(p, 4<<30)) },
		"link out":    func(p string) error { return os.Symlink(filepath.Join(outside, "file"), p) },
		"link up out": func(p string) error { return os.Symlink("../../../../../../../../"+filepath.Join(outside, "file"), p) },
	} {
		root := Root(t)
		p := filepath.Join(root, "etc/passwd")
		must(t, errors.Join(os.Remove(p), plant(p)))
		spec := Shell(root, "echo ran") // not id: it would wait for the FIFO itself
		spec.Process.User = "canary"
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if out, _, err := run(t, e, spec); exitCode(err) != -1 || out != "" {
			t.Errorf("%s: user found: %q, %v", name, out, err)
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
			t.Errorf("%s: %d bytes allocated", name, grown)
		}
		spec.Process.User = ""
		if out, _, err := run(t, e, spec); out != "ran\n" {
			t.Errorf("%s: root cannot run: %v", name, err)
		}
	}
}

func testStreams(t *testing.T, e executor.Executor) {
	root := Root(t)
	out, errOut, err := run(t, e, Shell(root, "echo out; echo err >&2"))
	if err != nil || out != "out\n" || errOut != "err\n" {
		t.Errorf("stdout %q, stderr %q, %v", out, errOut, err)
	}
	// A writer for both gets them in their order.
	var both strings.Builder
	spec := Shell(root, "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done")
	spec.Process.Stdout, spec.Process.Stderr = &both, &both
	must(t, e.Run(context.Background(), spec))
	if got := strings.Join(strings.Fields(both.String()), " "); got != "o1 e1 o2 e2 o3 e3 o4 e4 o5 e5" {
		t.Errorf("together: %q", got)
	}
	// A user may open its own output by name.
	spec = Shell(root, "echo x >/dev/stdout; echo y >/dev/stderr")
	spec.Process.User = "ann"
	if out, errOut, err := run(t, e, spec); err != nil || out != "x\n" || errOut != "y\n" {
		t.Errorf("by name: %q, %q, %v", out, errOut, err)
	}
	// No writers at all is fine.
	spec = Shell(root, "echo x; echo y >&2")
	must(t, e.Run(context.Background(), spec))
	// A writer that fails is reported, and does not block the process.
	spec.Process.Stdout = failingWriter{}
	spec.Process.Args[2] = "while echo x; do :; done"
	if err := e.Run(context.Background(), spec); err == nil {
		t.Error("the error of a writer is lost")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

func testStdin(t *testing.T, e executor.Executor) {
	root := Root(t)
	if got := output(t, e, Shell(root, "cat | wc -c")); got != "0" {
		t.Errorf("without stdin %s bytes are read", got)
	}
	spec := Shell(root, "wc -c")
	spec.Process.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
	if got := output(t, e, spec); got != "1048576" {
		t.Errorf("%s bytes are read, want 1048576", got)
	}
	// A stdin that never ends does not keep the process from ending.
	r, w := io.Pipe()
	defer w.Close()
	spec = Shell(root, "true")
	spec.Process.Stdin = r
	output(t, e, spec)
}

// A terminal of its own, of the caller's size, through which input, interrupts and output go.
func testTerminal(t *testing.T, e executor.Executor) {
	master, slave := openPTY(t)
	must(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}))
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	spec := Shell(Root(t), "tty; stty size; trap 'echo interrupted; exit 5' INT; test -c /dev/console && echo prompt; while :; do sleep 0.05; done")
	spec.Process.Terminal = slave
	spec.Process.User = "ann"
	done := make(chan error, 1)
	go func() {
		done <- e.Run(context.Background(), spec)
		_, _ = slave.WriteString("\nended\n")
	}()
	var got strings.Builder
	buf := make([]byte, 256)
	for !strings.Contains(got.String(), "ended") {
		n, err := master.Read(buf)
		must(t, err)
		got.Write(buf[:n])
		if strings.HasSuffix(got.String(), "prompt\r\n") {
			_, err = master.WriteString("\x03") // the container's terminal makes the signal of it: the caller's is raw
			must(t, err)
		}
	}
	if err := <-done; exitCode(err) != 5 {
		t.Errorf("exit code 5 wanted: %v", err)
	}
	if want := "/dev/pts/0\r\n33 77\r\nprompt\r\n^Cinterrupted"; !strings.HasPrefix(got.String(), want) {
		t.Errorf("the terminal shows %q, want %q", got.String(), want)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if must(t, err); *after != *before {
		t.Errorf("the caller's terminal is left as %+v, was %+v", after, before)
	}
	spec.Process.Terminal, err = os.Open("/dev/null")
	must(t, err)
	if err := e.Run(context.Background(), spec); exitCode(err) != -1 {
		t.Errorf("not a terminal: %v", err)
	}
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { master.Close() })
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func testOutputWhileRunning(t *testing.T, e executor.Executor) {
	r, w := io.Pipe()
	spec := Shell(Root(t), "echo first; read x; echo got $x")
	stdin, feed := io.Pipe()
	spec.Process.Stdin, spec.Process.Stdout = stdin, w
	done := make(chan error, 1)
	go func() { done <- e.Run(context.Background(), spec); w.Close() }()
	buf := make([]byte, 64)
	n, _ := r.Read(buf)
	if got := string(buf[:n]); got != "first\n" {
		t.Fatalf("the first output is %q", got)
	}
	go io.WriteString(feed, "answer\n")
	rest, _ := io.ReadAll(r)
	if err := <-done; err != nil || string(rest) != "got answer\n" {
		t.Errorf("then %q, %v", rest, err)
	}
}

type countingWriter struct{ n int64 }

func (c *countingWriter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// Output without end and without line ends passes through, in constant memory.
func testFlood(t *testing.T, e executor.Executor) {
	const size = 128 << 20
	spec := Shell(Root(t), "head -c "+strconv.Itoa(size)+" /dev/zero")
	var c countingWriter
	spec.Process.Stdout = &c
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	must(t, e.Run(context.Background(), spec))
	runtime.ReadMemStats(&after)
	if c.n != size {
		t.Errorf("%d bytes arrived, want %d", c.n, size)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
		t.Errorf("%d bytes allocated on the way", grown)
	}
}

// Cancelling ends processes that heed SIGTERM at once and the others after the grace, and says that it was cancelled.
func testCancel(t *testing.T, e executor.Executor) {
	root := Root(t)
	for _, c := range []struct {
		name, script string
		atLeast      time.Duration
		wantOut      string
	}{
		{"a shell waiting for a child", "echo ready; sleep 1000; exit 1", 0, ""},
		{"a process of its own", "echo ready; exec sleep 1000", 0, ""},
		{"a handler", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done", 0, "bye\n"},
		{"deaf", "trap '' TERM; echo ready; while :; do sleep 1000; done", time.Second, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			spec := Shell(root, c.script)
			spec.Grace = time.Second
			r, w := io.Pipe()
			spec.Process.Stdout = w
			done := make(chan error, 1)
			go func() { done <- e.Run(ctx, spec); w.Close() }()
			buf := make([]byte, 6)
			if _, err := io.ReadFull(r, buf); err != nil {
				t.Fatalf("%v: %v", err, <-done)
			}
			start := time.Now()
			cancel()
			rest, _ := io.ReadAll(r)
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want one that says cancelled", err)
			}
			if d := time.Since(start); d < c.atLeast || d > c.atLeast+5*time.Second {
				t.Errorf("ended after %s", d)
			}
			if string(rest) != c.wantOut {
				t.Errorf("last words %q, want %q", rest, c.wantOut)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Run(ctx, Shell(root, "true")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

func testConcurrent(t *testing.T, e executor.Executor) {
	errs := make(chan error)
	const n = 8
	for i := range n {
		root := Root(t)
		go func() {
			for range 3 {
				var out strings.Builder
				spec := Shell(root, "echo "+strconv.Itoa(i))
				spec.Process.Stdout = &out
				if err := e.Run(context.Background(), spec); err != nil || out.String() != strconv.Itoa(i)+"\n" {
					errs <- errors.Join(err, errors.New(out.String()))
					return
				}
			}
			errs <- nil
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	// Nor does any of it pull this process into a container.
	for _, ns := range []string{"mnt", "net", "pid", "ipc", "uts"} {
		process, err := os.Readlink("/proc/self/ns/" + ns)
		thread, terr := os.Readlink("/proc/thread-self/ns/" + ns)
		if process != thread || err != nil || terr != nil {
			t.Errorf("THE CALLER'S %s NAMESPACE IS %s, and of this thread %s (%v %v)", ns, process, thread, err, terr)
		}
	}
}

func testEtcFiles(t *testing.T, e executor.Executor) {
	root := Root(t)
	spec := Shell(root, "cat /etc/hosts; echo --; hostname; echo --; cat /etc/resolv.conf")
	spec.Hosts = []executor.Host{{Name: "db", IP: netip.MustParseAddr("10.1.2.3")}, {Name: "six", IP: netip.MustParseAddr("fe80::1")}}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	want := "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\nfe80::1\tsix\n" +
		"--\nbuildkitsandbox\n--\n" + string(resolv)
	if got := output(t, e, spec); got != strings.TrimSpace(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	spec = Shell(root, "hostname; grep -c other /etc/hosts")
	spec.Hostname = "other"
	if got := output(t, e, spec); got != "other\n1" {
		t.Errorf("with a name: %q", got)
	}
	// The image's own files are hidden, not changed.
	must(t, os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("mine"), 0o644))
	before := tree(t, root)
	if out, _, err := run(t, e, Shell(root, "cat /etc/hosts; echo x >/etc/hosts")); err == nil || strings.Contains(out, "mine") {
		t.Errorf("/etc/hosts of the image shows or can be written: %q, %v", out, err)
	}
	sameTree(t, "the image's files", before, tree(t, root))
}
