// Package torture is what tests of hostile input, faults and load ask of the run they are part of: how often to do a thing, and where
// to note what came of it. `make torture` (the script run beside this file) sets both; in `make test` everything is done a little, and nothing noted.
package torture

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Variables of the script: the file that figures go into, and how many times more than usual everything is done.
const (
	figuresVar = "CAIRN_TORTURE"
	timesVar   = "CAIRN_TORTURE_TIMES"
)

// On reports whether this is a run of `make torture`.
func On() bool { return os.Getenv(figuresVar) != "" }

// Times is how often something is done: n times in `make test`; in `make torture` many times, or the multiple or fraction of that
// which TIMES says, but no fewer than n.
func Times(n, many int) int {
	if !On() {
		return n
	}
	times, err := strconv.ParseFloat(os.Getenv(timesVar), 64)
	if err != nil {
		times = 1
	}
	return max(n, int(float64(many)*times))
}

// Figure notes what a test that has passed has shown, for docs/reliability.md: a sentence without its full stop. It does nothing for one that
// has not, and nothing in `make test`.
func Figure(t testing.TB, id, format string, args ...any) {
	t.Helper()
	if !On() || t.Failed() {
		return
	}
	f, err := os.OpenFile(os.Getenv(figuresVar), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s\t%s\n", id, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")); err != nil {
		t.Fatal(err)
	}
}
