package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// said is what each of the two clients prints: RUN and container are filtered, and may make no user namespace.
var said = strings.Repeat("Seccomp:\t2\nrefused\n", 4)

// TestImporting: a program that imports the library, built with nothing but Go (no cgo, no tags), builds and runs, as root and as an ordinary user.
func TestImporting(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	exe := filepath.Join(t.TempDir(), "importer")
	cmd := exec.Command("go", "build", "-o", exe, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	harness.Execute(t, cmd).OK(t)
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		h.Files(map[string]string{"importer:0755": string(data)})
		if got := harness.Execute(t, h.Command(h.Path("importer"), h.Path("stores"), base)).OK(t).Stdout; got != said {
			t.Errorf("it says\n%s", got)
		}
	})
}

// TestGoRun is the same under `go run`, with cgo, libseccomp and the tags of the command.
func TestGoRun(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{}).Busybox(t)
	got := harness.Run(t, "go", "run", "-tags", "seccomp netgo osusergo", ".", filepath.Join(t.TempDir(), "stores"), base)
	if got != said {
		t.Errorf("it says\n%s", got)
	}
}
