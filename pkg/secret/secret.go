// Package secret holds values that cannot be printed by accident.
package secret

import (
	"fmt"
	"log/slog"
)

// Value is a secret. However it is formatted, marshalled or logged, only a placeholder comes out; Reveal is the one way to the bytes.
type Value struct{ b []byte }

// New returns a Value of b, which the caller must not change afterwards.
func New(b []byte) Value { return Value{b} }

// Reveal returns the secret itself.
func (v Value) Reveal() []byte { return v.b }

const placeholder = "[secret]"

// String returns a placeholder, for every verb of package fmt.
func (Value) String() string { return placeholder }

// Format implements fmt.Formatter, so that %x, %#v and the like print the placeholder too.
func (Value) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(placeholder)) }

// MarshalText implements encoding.TextMarshaler with the placeholder.
func (Value) MarshalText() ([]byte, error) { return []byte(placeholder), nil }

// LogValue implements slog.LogValuer with the placeholder.
func (Value) LogValue() slog.Value { return slog.StringValue(placeholder) }
