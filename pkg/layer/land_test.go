package layer

import (
	"strings"
	"testing"
)

// TestWayChanges: a layer that changes, after it used it, where its own entries lie is refused; what would be of it depends on who reads it.
func TestWayChanges(t *testing.T) {
	for _, tc := range []struct {
		name         string
		lower, layer []raw
		want         string
	}{
		{"the link becomes a file", []raw{rd("b"), rl("a", "b")}, []raw{rf("a/f", ""), rf("a", "")}, "replaced after the layer used it"},
		{"the link leads elsewhere", []raw{rd("b"), rd("d"), rl("c", "b"), rl("a", "c")}, []raw{rf("a/f", ""), rl("c", "d")}, "changes the way"},
		{"the target goes and comes", []raw{rd("b"), rl("c", "b")}, []raw{rd("c/b"), rl("b", "nowhere"), rd("b")}, "replaces the directory it is in"},
		{"the other name goes", []raw{rd("c"), rl("a", "c")}, []raw{rf("a/f", ""), rf("c", ""), rd("c"), rh("b", "a/f")}, "has been replaced by another name"},
		{"a file and a directory", []raw{rd("c"), rl("a", "c")}, []raw{rf("c/b", ""), rf("a/b/c", ""), rf("a/b", "")}, "both a directory and none"},
		{"a directory goes by one name", []raw{rd("b"), rl("a", ".")}, []raw{rf("b/a", ""), rf("a/b/c", ""), rl("a/b", "d")}, "kept by another"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			below, err := unpackTar(t, t.TempDir(), nil, tc.lower...)
			must(t, err)
			_, err = unpackTar(t, t.TempDir(), Stack([]*Index{below}, nil), tc.layer...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("it came to %v", err)
			}
		})
	}
}
