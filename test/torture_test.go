package test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// tortureVar names the file that `make torture` gathers figures in. Where it is set tests do everything as often as docs/reliability.md says.
const tortureVar = "CAIRN_TORTURE"

// torture is how often something is done: n times in `make test`, many times in `make torture`.
func torture(n, many int) int {
	if os.Getenv(tortureVar) != "" {
		return many
	}
	return n
}

// figure notes what a test that has passed has shown, for docs/reliability.md. It does nothing for one that has not, and nothing in `make test`.
func figure(t *testing.T, what, format string, args ...any) {
	t.Helper()
	file := os.Getenv(tortureVar)
	if file == "" || t.Failed() {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s\t%s\n", what, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")); err != nil {
		t.Fatal(err)
	}
}
