package suggest

import "testing"

func TestNearest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		word, want string
		options    []string
	}{
		{"chwon", "chown", []string{"chmod", "chown", "from"}},
		{"chwon", "chown", []string{"chown", "chmod", "from"}},
		{"frm", "from", []string{"from", "link"}},
		{"tga", "tag", []string{"target", "tag"}},
		{"plat", "platform", []string{"label", "platform"}},
		{"pl", "", []string{"platform"}},
		{"ab", "", []string{"cd"}},
		{"colour", "color", []string{"color"}},
		{"mount", "", []string{"mounts", "mount"}},
		{"xyzzy", "", []string{"from", "link"}},
		{"", "", []string{"a", "ab"}},
		{"grün", "gründ", []string{"gründ"}},
		{"kill", "", []string{"pull", "build"}},
		{"foo", "", []string{"root"}},
		{"biuld", "build", []string{"pull", "build"}},
	} {
		if got := Nearest(c.word, c.options); got != c.want {
			t.Errorf("Nearest(%q, %q) = %q, want %q", c.word, c.options, got, c.want)
		}
	}
	if got := Remark("tga", []string{"tag"}); got != " (hint: did you mean tag?)" {
		t.Errorf("Remark = %q", got)
	}
	if got := Remark("zzz", []string{"tag"}); got != "" {
		t.Errorf("Remark = %q", got)
	}
}
