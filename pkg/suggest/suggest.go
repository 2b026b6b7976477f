// Package suggest finds what a misspelled word was probably meant to be.
package suggest

import (
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/cairn-build/cairn/pkg/hint"
)

// Nearest returns the option that word was probably meant to be, "" where none is near: one that differs by fewer than three letters
// and has more than half of its letters in common with word, or that begins with word. Of options that differ by as much, one of the same letters is
// nearer (they were swapped), then the first. A word that is an option was not misspelled.
func Nearest(word string, options []string) string {
	best, least := "", 2*min(3, len(word))
	letters := sorted(word)
	for _, o := range options {
		if o == word {
			return ""
		}
		// Twice the letters that differ, and one more where they are not only swapped.
		d := 2 * levenshtein.Distance(word, o, nil)
		others := sorted(o)
		switch {
		case len(word) >= 3 && strings.HasPrefix(o, word):
			d = 2
		case 2*inCommon(letters, others) <= max(len(letters), len(others)):
			continue // kill is not pull
		}
		if !slices.Equal(letters, others) {
			d++
		}
		if d < least {
			best, least = o, d
		}
	}
	return best
}

// Hint returns "did you mean X?" for the nearest option, "" where there is none.
func Hint(word string, options []string) string {
	if n := Nearest(word, options); n != "" {
		return "did you mean " + n + "?"
	}
	return ""
}

// Remark is Hint as errors end with it (package hint).
func Remark(word string, options []string) string {
	return hint.Text("", Hint(word, options))
}

// sorted are the letters of a word, in their order.
func sorted(s string) []rune {
	r := []rune(s)
	slices.Sort(r)
	return r
}

// inCommon counts the letters that two sorted words share.
func inCommon(a, b []rune) (n int) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			a = a[1:]
		case a[0] > b[0]:
			b = b[1:]
		default:
			a, b, n = a[1:], b[1:], n+1
		}
	}
	return n
}
