package test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/cairn-build/cairn/test/torture"
)

// silent is a registry that does what another does, but for one kind of request, which it takes and never answers.
type silent struct {
	*httptest.Server
	reached chan struct{}
	gone    chan struct{}
}

// newSilent starts one; match are the requests it does not answer.
func newSilent(t *testing.T, of *harness.Registry, match func(*http.Request) bool) *silent {
	t.Helper()
	s := &silent{reached: make(chan struct{}), gone: make(chan struct{})}
	var once sync.Once
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if match(r) {
			once.Do(func() { close(s.reached) })
			select {
			case <-r.Context().Done():
			case <-s.gone:
			}
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+of.Addr+r.URL.RequestURI(), r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		req.Header, req.ContentLength, req.Host = r.Header, r.ContentLength, r.Host
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(s.Server.Close)
	t.Cleanup(func() { close(s.gone) })
	return s
}

// stopCase is a build that has come to a certain point and stays there.
type stopCase struct {
	name string
	// start starts it and returns when the point is reached.
	start func(t *testing.T, h *harness.Home) *exec.Cmd
}

// started starts a build and waits for a line of its output.
func started(t *testing.T, h *harness.Home, line string, args ...string) *exec.Cmd {
	t.Helper()
	log, err := os.Create(h.Path("log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := h.CairnCommand(append([]string{"build", "--root", h.Root, "--progress=plain"}, args...)...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	harness.WaitFor(t, 3*time.Minute, "the build shows "+line, func() bool {
		data, _ := os.ReadFile(h.Path("log"))
		return bytes.Contains(data, []byte(line))
	})
	return cmd
}

// stopCases are the points of a build at which it is stopped (T10).
func stopCases(of *harness.Registry, base string) []stopCase {
	run := func(script string) func(*testing.T, *harness.Home) *exec.Cmd {
		return func(t *testing.T, h *harness.Home) *exec.Cmd {
			return started(t, h, " ready\n", h.Files(map[string]string{"Dockerfile": "FROM " + base + "\nRUN " + script + "\n"}))
		}
	}
	at := func(match func(*http.Request) bool, push bool) func(*testing.T, *harness.Home) *exec.Cmd {
		return func(t *testing.T, h *harness.Home) *exec.Cmd {
			s := newSilent(t, of, match)
			addr := s.Listener.Addr().String()
			args := []string{"build", "--root", h.Root, h.Path("")}
			from := strings.Replace(base, of.Addr, addr, 1)
			if push {
				from, args = base, append(args[:3:3], "-t", addr+"/x", "--push", h.Path(""))
			}
			h.Files(map[string]string{"Dockerfile": "FROM " + from + "\nRUN echo x > /x\n"})
			cmd := h.CairnCommand(args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-s.reached:
			case <-time.After(time.Minute):
				t.Fatal("the request was not made")
			}
			return cmd
		}
	}
	// large does something with two gigabytes of zeros, which takes longer than a signal.
	large := func(step string) func(*testing.T, *harness.Home) *exec.Cmd {
		return func(t *testing.T, h *harness.Home) *exec.Cmd {
			dir := h.Files(map[string]string{"Dockerfile": "FROM scratch\n" + step + "\n"})
			zeros(t, h.Path("huge"), h.Path("huge.tar"))
			return started(t, h, step+"\n", dir)
		}
	}
	return []stopCase{
		{name: "reading the context", start: func(t *testing.T, h *harness.Home) *exec.Cmd {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close(); w.Close() })
			cmd := h.CairnCommand("build", "--root", h.Root, "-")
			cmd.Stdin = r
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// It has begun to read when the pipe has been emptied.
			for n := 0; n < 3<<20; {
				k, err := w.Write(make([]byte, 64<<10))
				if n += k; err != nil {
					break
				}
			}
			return cmd
		}},
		{name: "resolving", start: at(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }, false)},
		{name: "pulling", start: at(func(r *http.Request) bool { return r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/") }, false)},
		{name: "unpacking an archive", start: large("ADD huge.tar /x/")},
		{name: "copying", start: large("COPY huge /x")},
		{name: "RUN", start: run("echo ready; exec sleep 1000")},
		{name: "RUN with a handler", start: run("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")},
		{name: "making a layer", start: run("truncate -s 2G /x; echo ready")},
		{name: "pushing", start: at(func(r *http.Request) bool { return r.Method == "POST" }, true)},
		{name: "pushing a manifest", start: at(func(r *http.Request) bool { return r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/") }, true)},
		{name: "writing an archive", start: func(t *testing.T, h *harness.Home) *exec.Cmd {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + "\nRUN head -c 3000000 /dev/urandom > /x\n"})
			cmd := h.CairnCommand("build", "--root", h.Root, "-o", "type=docker,dest=-", dir)
			cmd.Stdout = w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			return cmd
		}},
	}
}

// zeros makes a file of two gigabytes without any block, and an archive of such a file.
func zeros(t *testing.T, file, archive string) {
	t.Helper()
	const size = 2 << 30
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Name: "huge", Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	const trailer = 1024 // two blocks of zeros
	for name, f := range map[string]struct {
		head []byte
		size int64
	}{file: {nil, size}, archive: {head.Bytes(), int64(head.Len()) + size + trailer}} {
		if err := os.WriteFile(name, f.head, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, f.size); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStop is T10: a build is stopped by every signal at every point. It ends soon, says by its code why, leaves nothing, and the store checks clean.
func TestStop(t *testing.T) {
	of := harness.StartRegistry(t, harness.RegistryOptions{})
	base := of.Busybox(t)
	u := harness.Unprivileged(t)
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	var slowest time.Duration
	n := 0
	cases := stopCases(of, base)
	for round := range torture.Times(1, 1) {
		for i, c := range cases {
			for j, sig := range signals {
				// Not every pair in every run of `make test`: each point meets two signals, each signal every second point.
				if !torture.On() && (i+j+round)%2 != 0 {
					continue
				}
				n++
				t.Run(fmt.Sprintf("%s/%v", c.name, sig), func(t *testing.T) {
					h := harness.NewHome(t, u)
					cmd := c.start(t, h)
					begin := time.Now()
					if err := cmd.Process.Signal(sig); err != nil {
						t.Fatal(err)
					}
					took := ended(t, cmd, begin)
					slowest = max(slowest, took)
					if limit := 5 * time.Second; took > limit {
						t.Errorf("the end took %v", took)
					}
					if code := cmd.ProcessState.ExitCode(); code != 128+int(sig) {
						data, _ := os.ReadFile(h.Path("log"))
						t.Errorf("exit code %d\n%s", code, data)
					}
					h.CheckClean()
					h.Cairn("system", "check", "--read-data", "--root", h.Root).OK(t)
				})
			}
		}
	}
	torture.Figure(t, "T10", "%d builds stopped by INT, TERM, HUP and QUIT at %d points of a build: all ended with 128+n, the slowest after %.1f s", n, len(cases), slowest.Seconds())
}

// ended waits for the end of a command and returns how long it took since begin.
func ended(t *testing.T, cmd *exec.Cmd, begin time.Time) time.Duration {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
	return time.Since(begin)
}

// TestStopDeaf: a RUN that ignores TERM is killed after ten seconds of grace, or at once by a second signal.
func TestStopDeaf(t *testing.T) {
	of := harness.StartRegistry(t, harness.RegistryOptions{})
	base := of.Busybox(t)
	u := harness.Unprivileged(t)
	const deaf = "trap '' TERM INT HUP QUIT; echo ready; while :; do sleep 1000; done"
	for _, twice := range []bool{false, true} {
		h := harness.NewHome(t, u)
		cmd := started(t, h, " ready\n", h.Files(map[string]string{"Dockerfile": "FROM " + base + "\nRUN " + deaf + "\n"}))
		begin := time.Now()
		_ = cmd.Process.Signal(syscall.SIGINT)
		if twice {
			// The second counts when the first has been noticed: it is sent until the end.
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				for tick := time.NewTicker(100 * time.Millisecond); ; {
					select {
					case <-tick.C:
						_ = cmd.Process.Signal(syscall.SIGINT)
					case <-stop:
						tick.Stop()
						return
					}
				}
			}()
		}
		took := ended(t, cmd, begin)
		if !twice && (took < 9*time.Second || took > 20*time.Second) || twice && took > 5*time.Second {
			t.Errorf("twice=%t: the end took %v", twice, took)
		}
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("twice=%t: exit code %d", twice, code)
		}
		harness.WaitFor(t, 10*time.Second, "no process is left", func() bool { return len(h.Processes()) == 0 })
		h.Cairn("system", "check", "--read-data", "--root", h.Root).OK(t)
		h.CheckClean()
	}
}

// TestStopGroup: TERM to the whole process group, as from a supervisor or a CI's runner, is one stop for the build.
func TestStopGroup(t *testing.T) {
	of := harness.StartRegistry(t, harness.RegistryOptions{})
	h := harness.NewHome(t, harness.Unprivileged(t))
	cmd := started(t, h, " ready\n", h.Files(map[string]string{"Dockerfile": "FROM " + of.Busybox(t) + "\nRUN echo ready; exec sleep 1000\n"}))
	begin := time.Now()
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if took := ended(t, cmd, begin); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
	if code := cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGTERM) {
		data, _ := os.ReadFile(h.Path("log"))
		t.Errorf("exit code %d\n%s", code, data)
	}
	h.CheckClean()
	h.Cairn("system", "check", "--read-data", "--root", h.Root).OK(t)
}

// TestPause: a build that is stopped and continued, as by Ctrl-Z and fg, goes on to its end.
func TestPause(t *testing.T) {
	of := harness.StartRegistry(t, harness.RegistryOptions{})
	h := harness.NewHome(t, harness.Unprivileged(t))
	cmd := started(t, h, " ready\n", h.Files(map[string]string{
		"Dockerfile": "FROM " + of.Busybox(t) + "\nRUN --mount=type=cache,target=/c echo ready; while [ ! -e /c/go ]; do sleep 0.1; done; echo x > /x\n",
		"go":         "FROM " + of.Busybox(t) + "\nRUN --mount=type=cache,target=/c touch /c/go\n",
	}))
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	harness.WaitFor(t, 10*time.Second, "the program stands", func() bool {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		_, rest, _ := strings.Cut(string(data), ") ")
		return strings.HasPrefix(rest, "T")
	})
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	build(h, "-f", h.Path("go"), h.Path("")).OK(t)
	if err := cmd.Wait(); err != nil {
		data, _ := os.ReadFile(h.Path("log"))
		t.Errorf("%v\n%s", err, data)
	}
}

// TestClosedOutput: whoever reads the output goes away. The build ends, and leaves nothing.
func TestClosedOutput(t *testing.T) {
	of := harness.StartRegistry(t, harness.RegistryOptions{})
	h := harness.NewHome(t, harness.Unprivileged(t))
	dir := h.Files(map[string]string{"Dockerfile": "FROM " + of.Busybox(t) + "\nRUN echo ready; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done; echo x > /x\n"})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.CairnCommand("build", "--root", h.Root, "--progress=plain", dir)
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := io.ReadFull(r, make([]byte, 50)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	ended(t, cmd, time.Now())
	if code := cmd.ProcessState.ExitCode(); code == 2 || code > 128+31 {
		t.Errorf("exit code %d", code)
	}
	harness.WaitFor(t, 10*time.Second, "no process is left", func() bool { return len(h.Processes()) == 0 })
	h.Cairn("system", "check", "--read-data", "--root", h.Root).OK(t)
	build(h, dir).OK(t)
}

// TestTerminalIsRestored: Ctrl-C on a terminal leaves it as it was: lines wrap again, and its settings are the same.
func TestTerminalIsRestored(t *testing.T) {
	of := harness.StartRegistry(t, harness.RegistryOptions{})
	h := harness.NewHome(t, harness.Unprivileged(t))
	h.Env = append(h.Env, "TERM=xterm")
	h.Files(map[string]string{
		"Dockerfile": "FROM " + of.Busybox(t) + "\nRUN echo ready; exec sleep 1000\n",
		"go.sh":      "trap : INT; stty -a > before; \"$@\"; echo \"code $?\" > code; stty -a > after\n",
	})
	cmd := h.Command("script", "-qec", "sh ./go.sh "+h.CairnCommand().Path+" build --root "+h.Root+" --progress=tty .", "/dev/null")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var out bytes.Buffer
	cmd.Stdout = writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return out.Write(p)
	})
	shown := func(text string) bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(out.String(), text)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	harness.WaitFor(t, time.Minute, "the build runs", func() bool { return shown("ready") })
	if !shown("\x1b[?7l") {
		t.Error("the renderer did not change the terminal, so this test proves nothing")
	}
	_, _ = io.WriteString(stdin, "\x03")
	harness.WaitFor(t, time.Minute, "the build has ended", func() bool { _, err := os.Stat(h.Path("after")); return err == nil })
	stdin.Close()
	ended(t, cmd, time.Now())
	before, _ := os.ReadFile(h.Path("before"))
	after, _ := os.ReadFile(h.Path("after"))
	code, _ := os.ReadFile(h.Path("code"))
	if len(before) == 0 || !bytes.Equal(before, after) {
		t.Errorf("the terminal's settings were\n%sand are\n%s", before, after)
	}
	if string(code) != "code 130\n" {
		t.Errorf("%s", code)
	}
	if strings.LastIndex(out.String(), "\x1b[?7h") < strings.LastIndex(out.String(), "\x1b[?7l") {
		t.Error("lines do not wrap any more")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
