// Package hint puts beside an error what can be done about it. There is one form of it in an error's text, at its end: `WHAT (hint: DO)`; so a
// hint survives where only the text does, as on the way from one process to another.
package hint

import (
	"errors"
	"strings"
)

const before, after = " (hint: ", ")"

// Error is an error with a hint.
type Error struct {
	Err error
	// Hint is a clause without a full stop: "name it with --file".
	Hint string
}

// With attaches a hint to an error. Without a hint, or an error, it returns err.
func With(err error, hint string) error {
	if err == nil || hint == "" {
		return err
	}
	return &Error{Err: err, Hint: hint}
}

// Error implements error.
func (e *Error) Error() string { return Text(e.Err.Error(), e.Hint) }

// Unwrap returns the error without its hint.
func (e *Error) Unwrap() error { return e.Err }

// Text ends the text of an error with a hint, which may be empty.
func Text(what, hint string) string {
	if hint == "" {
		return what
	}
	return what + before + hint + after
}

// Of takes an error apart: what is wrong, and the first hint, "" where it has none.
func Of(err error) (what, hint string) {
	if e, ok := errors.AsType[*Error](err); ok {
		return strings.Replace(err.Error(), Text("", e.Hint), "", 1), e.Hint
	}
	return Split(err.Error())
}

// Split is Of where only the text of an error is left.
func Split(text string) (what, hint string) {
	start := strings.Index(text, before)
	if start < 0 {
		return text, ""
	}
	rest := text[start+len(before):]
	// A hint may have parentheses of its own.
	for i, open := 0, 1; i < len(rest); i++ {
		switch rest[i] {
		case '(':
			open++
		case ')':
			open--
		}
		if open == 0 {
			return text[:start] + rest[i+1:], rest[:i]
		}
	}
	return text, ""
}
