package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/registry"
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
	text, hint := splitHint(err)
	if e, ok := errors.AsType[*cliError](err); ok {
		code = e.code
		if e.hint != "" {
			hint = e.hint
		}
	}
	if hint == "" {
		hint = hintFor(err)
	}
	writeExcerpt(w, err)
	writeLine(w, "cairn: "+text)
	if hint != "" {
		writeLine(w, "cairn: hint: "+hint)
	}
	return code
}

// splitHint takes the hint of an error of the packages below out of its text, where it stands at the end.
func splitHint(err error) (text, hint string) {
	text = err.Error()
	if before, after, ok := strings.Cut(text, "\nhint: "); ok {
		return before, after
	}
	if e, ok := errors.AsType[*registry.Error](err); ok {
		hint = e.Hint
	}
	if e, ok := errors.AsType[*dockerfile.Error](err); ok {
		hint = e.Hint
	}
	if hint != "" {
		text = strings.Replace(strings.Replace(text, "; "+hint, "", 1), " ("+hint+")", "", 1)
		return text, hint
	}
	// Where only the text is left of it.
	if before, after, ok := strings.Cut(text, " (did you mean "); ok && strings.HasSuffix(after, "?)") {
		return before, "did you mean " + strings.TrimSuffix(after, ")")
	}
	return text, ""
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

// hintFor finds what can be done about errors that bring no hint of their own.
func hintFor(err error) string {
	text := err.Error()
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("server gave HTTP response to HTTPS client"):
		return "the registry speaks plain HTTP: --insecure-registry HOST"
	case has("certificate signed by unknown authority", "certificate is not trusted"):
		return "name the registry's certificate authority with --registry-ca FILE"
	case has("UNAUTHORIZED", "401 Unauthorized", "DENIED", "403 Forbidden"):
		return "`cairn login` keeps credentials; those of Docker's config.json and of credential helpers are used too"
	case has("MANIFEST_UNKNOWN", "NAME_UNKNOWN"):
		return "check the name and the tag; short names are looked up on docker.io"
	case has("changing the owner to") && has("invalid argument"), has("is not among the ids that can be used here"):
		return "--isolation=userns-single imitates the ids that a user namespace does not have"
	case has("no build stage in current context"):
		return "a Dockerfile begins with FROM, which only comments and ARG may precede"
	case has("reading the Dockerfile: ") && has("leads out of the build context"):
		return "name a Dockerfile that is elsewhere with --file"
	case has("no such host", "connection refused", "network is unreachable"):
		return "check the registry's name and the network"
	case errors.Is(err, os.ErrPermission):
		return "check who owns the file and may read or write it"
	case errors.Is(err, context.DeadlineExceeded), has("i/o timeout"):
		return "the other side did not answer in time: try again"
	case has("no space left on device"):
		return "make room on the disk of that file; state can be kept elsewhere with --root DIR"
	}
	return ""
}
