package test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the command lines of testdata/script. $BASE is a busybox image, $REGISTRY a registry that can be pushed to; state is in the
// script's own folder.
func TestScripts(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	bin := filepath.Dir(harness.Binary(t))
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("BASE", base)
			e.Setenv("REGISTRY", registry.Addr)
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("XDG_DATA_HOME", filepath.Join(e.WorkDir, "data"))
			return nil
		},
	})
}
