package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// TestLibraryTable: every test that docs/library.md names is there.
func TestLibraryTable(t *testing.T) {
	module := harness.Module(t)
	doc, err := os.ReadFile(filepath.Join(module, "docs", "library.md"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("grep", "-rhoE", "--include=*_test.go", `^func (Test|Example)\w*`, module).Output()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		there[strings.TrimSpace(strings.TrimPrefix(line, "func "))] = true
	}
	named := regexp.MustCompile(`\b(Test|Example)[A-Z]\w*`).FindAllString(string(doc), -1)
	if len(named) < 30 {
		t.Fatalf("only %d tests are named", len(named))
	}
	for _, n := range named {
		if !there[n] {
			t.Errorf("docs/library.md names %s, which is nowhere", n)
		}
	}
}
