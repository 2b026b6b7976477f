package progress

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes text of unknown origin fit to be shown on one line of a terminal: escape sequences are taken out, control
// characters and others that are not printable (bidirectional overrides among them) appear in Go's escaped form, invalid
// UTF-8 as U+FFFD. Tabs stay.
//
// What RUN prints, file names, labels, Dockerfile text and what registries answer all go through here before they reach a
// terminal or a log: a terminal obeys such sequences, up to answering as if the user had typed (CVE-2003-0063 and its many
// heirs).
func Clean(s string) string {
	if isClean(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if n := escapeLen(s[i:]); n > 0 {
			i += n
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r == utf8.RuneError || showable(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// isClean is the quick answer for the usual line.
func isClean(s string) bool {
	ascii := 0
	for ascii < len(s) && (s[ascii] >= 0x20 && s[ascii] < 0x7f || s[ascii] == '\t') {
		ascii++
	}
	s = s[ascii:]
	for i, r := range s {
		if r == utf8.RuneError {
			_, n := utf8.DecodeRuneInString(s[i:])
			if n == 1 {
				return false
			}
		}
		if !showable(r) {
			return false
		}
	}
	return true
}

// showable reports whether r may be written to a terminal as it is. The joiners have no glyph but are parts of words and emoji.
func showable(r rune) bool {
	return r == '\t' || r == '\u200c' || r == '\u200d' || unicode.IsPrint(r)
}

// escapeLen is the length of the complete escape sequence (ECMA-48, 5.4 and 5.6) that s begins with, 0 if it begins with
// none. One that is cut off by the end of the line is none: what follows the ESC is then shown as text.
func escapeLen(s string) int {
	if len(s) < 2 || s[0] != 0x1b {
		return 0
	}
	switch c := s[1]; {
	case c == '[': // CSI: parameters, intermediates, one final byte
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
			if s[i] < 0x20 || s[i] > 0x7e {
				return 0
			}
		}
	case c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_': // a string, up to BEL or ESC \
		for i := 2; i < len(s); i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b {
				if i+1 < len(s) && s[i+1] == '\\' {
					return i + 2
				}
				return 0
			}
		}
	case c >= 0x20 && c <= 0x2f: // intermediates, one final byte (character sets)
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x30 && s[i] <= 0x7e {
				return i + 1
			}
			if s[i] < 0x20 || s[i] > 0x2f {
				return 0
			}
		}
	case c >= 0x30 && c <= 0x7e:
		return 2
	}
	return 0
}

// cleanLines is Clean for each line of a text of several.
func cleanLines(s string) []string {
	var out []string
	for _, l := range strings.Split(strings.TrimRight(s, "\r\n"), "\n") {
		out = append(out, Clean(strings.TrimRight(l, "\r")))
	}
	return out
}
