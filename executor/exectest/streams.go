package exectest

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/executor"
)

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
