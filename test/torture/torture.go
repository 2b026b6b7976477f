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
	note(t, fmt.Appendf(nil, "%s\t%s\n", id, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")))
}

// Env is what a second run of a test binary, as somebody else, needs to be part of the same run of `make torture`: it notes its figures in a file of its
// own, which Collect adds to this one's.
func Env(figures string) []string {
	if !On() {
		return nil
	}
	return []string{figuresVar + "=" + figures, timesVar + "=" + os.Getenv(timesVar)}
}

// Collect notes what a second run has noted.
func Collect(t testing.TB, figures string) {
	t.Helper()
	data, err := os.ReadFile(figures)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if On() && !t.Failed() {
		note(t, data)
	}
}

func note(t testing.TB, data []byte) {
	t.Helper()
	f, err := os.OpenFile(os.Getenv(figuresVar), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
}
