package main

import (
	"errors"
	"io"
	"strings"
)

// excerpter is implemented by errors that know the lines of the Dockerfile they are about.
type excerpter interface {
	error
	Excerpt() string
}

// writeExcerpt shows the end of the output of the step that failed, and the lines of the Dockerfile that err is about.
func writeExcerpt(w io.Writer, err error) {
	if f, ok := errors.AsType[*stepFailure](err); ok {
		writeLine(w, "------")
		writeLine(w, " > "+f.step+":")
		for _, line := range f.tail {
			writeRaw(w, line)
		}
		writeLine(w, "------")
	}
	if e, ok := errors.AsType[excerpter](err); ok {
		for line := range strings.Lines(e.Excerpt()) {
			writeRaw(w, strings.TrimRight(line, "\n"))
		}
	}
}

// writeRaw writes one line without taking its blanks away.
func writeRaw(w io.Writer, line string) {
	_, _ = io.WriteString(w, printable(line)+"\n")
}
