package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/cairn-build/cairn/pkg/hint"
)

// This file is the user interface of cairn. The rules are:
//
//   - Standard output carries only what was asked for: an image written to "-", the image ID with --quiet, a table, the output
//     of `cairn run`. Everything else goes to standard error.
//   - An error is one line, "cairn: " and the error, with no capital initial and no period at the end, naming the datum it
//     is about. At most one line follows it: "cairn: hint: " and what can be done. An error in a Dockerfile is preceded by the
//     lines it is about, the failing one marked, and that of a RUN step by the end of the step's output.
//   - A warning is one line, "cairn: warning: ".
//   - Control characters that come from elsewhere (a registry, a file name, a step) never reach the terminal.
//   - Nothing asks questions and nothing needs a terminal.
//   - A panic is a bug; it is reported as one, with where to report it.
//
// Exit codes:
//
//	0    done
//	1    the build failed, or what was asked for could not be done
//	2    the command line is wrong; nothing was tried
//	125  `cairn run` could not start the command (Docker's convention); after that its code is the command's own
//	128+n  ended by signal n
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitNoRun  = 125
	exitSignal = 128
)

// cliError is an error with what the program knows about it: the exit code and a hint.
type cliError struct {
	err  error
	code int
	hint string
}

func (e *cliError) Error() string { return e.err.Error() }
func (e *cliError) Unwrap() error { return e.err }

// withHint adds the line that says what can be done.
func (e *cliError) withHint(format string, args ...any) *cliError {
	e.hint = fmt.Sprintf(format, args...)
	return e
}

// usagef is an error of the command line.
func usagef(format string, args ...any) *cliError {
	return &cliError{err: fmt.Errorf(format, args...), code: exitUsage}
}

// failf is an error of the work itself.
func failf(format string, args ...any) *cliError {
	return &cliError{err: fmt.Errorf(format, args...), code: exitFailed}
}

// exited is the end of a command that `cairn run` ran: nothing is to be said about it, its code is passed on.
type exited struct{ code int }

func (e exited) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// report writes what there is to say about err and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	var end exited
	if errors.As(err, &end) {
		return end.code
	}
	var caught signalled
	if errors.As(err, &caught) {
		writeLine(w, "cairn: stopped by "+caught.String())
		return exitSignal + int(caught.Signal)
	}
	code := exitFailed
	text, help := hint.Of(err)
	if e, ok := errors.AsType[*cliError](err); ok {
		code = e.code
		if help == "" {
			help = e.hint
		}
	}
	if help == "" {
		help = helpFor(err)
	}
	writeExcerpt(w, err)
	writeLine(w, "cairn: "+text)
	if help != "" {
		writeLine(w, "cairn: hint: "+help)
	}
	return code
}

// warn writes a warning.
func warn(w io.Writer, format string, args ...any) {
	writeLine(w, "cairn: warning: "+fmt.Sprintf(format, args...))
}

// writeLine writes one line, whatever is in text.
func writeLine(w io.Writer, text string) {
	_, _ = io.WriteString(w, printable(strings.ReplaceAll(strings.TrimSpace(text), "\n", "; "))+"\n")
}

// printable replaces what could drive a terminal: control characters, bidirectional overrides and bytes that are not UTF-8.
func printable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\t' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

// helpFor finds what can be done about errors that bring no hint of their own: those of the kernel, of the net, and of BuildKit's parser.
func helpFor(err error) string {
	text := err.Error()
	_, unknownHost := errors.AsType[*net.DNSError](err)
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case strings.Contains(text, "changing the owner to") && errors.Is(err, syscall.EINVAL), strings.Contains(text, "is not among the ids that can be used here"):
		return "--isolation=userns-single imitates the ids that a user namespace does not have"
	case strings.Contains(text, "no build stage in current context"):
		return "a Dockerfile begins with FROM, which only comments and ARG may precede"
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return "the other side did not answer in time: try again"
	case unknownHost, errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENETUNREACH):
		return "check the registry's name and the network"
	case errors.Is(err, os.ErrPermission):
		return "check who owns the file and may read or write it"
	case errors.Is(err, syscall.ENOSPC):
		return "make room on the disk of that file; state can be kept elsewhere with --root DIR"
	}
	return ""
}
