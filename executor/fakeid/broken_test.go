package fakeid_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/fakeid"
	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// What keeps calls from being received ends the first process, which would wait for ever, and is the error of the end.
func TestBrokenListener(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := fakeid.New(fakeid.Options{Mode: fakeid.Everything, Owners: fakeroot.New()})
	if err := s.Serve(null, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.String() != "signal: killed" {
		t.Errorf("the process: %v", err)
	}
	if err := s.Close(); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("closed with %v, want ENOTTY", err)
	}
}
