package test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Variables of test/torture/run: the file that figures go into, and how many times more than usual everything is done.
const (
	figuresVar = "CAIRN_TORTURE"
	timesVar   = "CAIRN_TORTURE_TIMES"
)

// tortured reports whether this is a run of `make torture`.
func tortured() bool { return os.Getenv(figuresVar) != "" }

// torture is how often something is done: n times in `make test`, many times and a multiple of that in `make torture`.
func torture(n, many int) int {
	if !tortured() {
		return n
	}
	times, err := strconv.Atoi(os.Getenv(timesVar))
	if err != nil {
		times = 1
	}
	return many * times
}

// figure notes what a test that has passed has shown, for docs/reliability.md. It does nothing for one that has not, and nothing in `make test`.
func figure(t *testing.T, what, format string, args ...any) {
	t.Helper()
	if !tortured() || t.Failed() {
		return
	}
	f, err := os.OpenFile(os.Getenv(figuresVar), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s\t%s\n", what, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")); err != nil {
		t.Fatal(err)
	}
}
