package process_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/executor/process"
)

// labelled writes every line with a label to a common log.
type labelled struct {
	label string
	log   *bytes.Buffer
}

func (l labelled) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		l.log.WriteString(l.label + strings.TrimSuffix(line, "\n") + " ")
	}
	return len(p), nil
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func pipes(t *testing.T) (read, write []*os.File) {
	t.Helper()
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		read, write = append(read, r), append(write, w)
	}
	return read, write
}

// TestRelayKeepsOrder: what was written first is delivered first, whichever stream it went to, also where the writer takes its time.
func TestRelayKeepsOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		streams []int
		want    string
	}{
		{[]int{0, 1}, "0:zero 0:a 1:b "}, {[]int{1, 0}, "0:zero 1:a 0:b "}, {[]int{1}, "0:zero 1:a "}, {[]int{0}, "0:zero 0:a "},
	} {
		read, write := pipes(t)
		var log bytes.Buffer
		slow := slowly{labelled{"0:", &log}, make(chan struct{}), make(chan struct{})}
		done := make(chan error)
		go func() { done <- process.Relay(read, []io.Writer{&slow, labelled{"1:", &log}}) }()
		_, _ = write[0].WriteString("zero\n")
		<-slow.asked
		for i, s := range c.streams {
			_, _ = write[s].WriteString(string(rune('a'+i)) + "\n")
		}
		close(slow.release)
		write[0].Close()
		write[1].Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if log.String() != c.want {
			t.Errorf("%q, want %q", log.String(), c.want)
		}
	}
}

// slowly lets its first write wait.
type slowly struct {
	labelled
	asked, release chan struct{}
}

func (s *slowly) Write(p []byte) (int, error) {
	select {
	case <-s.release:
	default:
		close(s.asked)
		<-s.release
	}
	return s.labelled.Write(p)
}

// TestRelayFailure: the error of a writer ends its pipe, so that who writes to it learns of it, and not the other one.
func TestRelayFailure(t *testing.T) {
	t.Parallel()
	read, write := pipes(t)
	var log bytes.Buffer
	full := errors.New("full")
	done := make(chan error)
	go func() { done <- process.Relay(read, []io.Writer{failing{full}, labelled{"1:", &log}}) }()
	_, _ = write[0].WriteString("x\n")
	for {
		if _, err := write[0].WriteString("x\n"); err != nil {
			break
		}
	}
	_, _ = write[1].WriteString("still\n")
	write[1].Close()
	if err := <-done; !errors.Is(err, full) || log.String() != "1:still " {
		t.Errorf("%v, %q", err, log.String())
	}
	write[0].Close()
}
