package plan

import (
	"errors"
	"strings"
	"testing"
)

func TestCopyFlags(t *testing.T) {
	yes, no := true, false
	main := Source{Context: &Context{}}
	tests := []struct {
		text string
		want Copy
	}{
		{"COPY a b /d/", Copy{From: main, Sources: []string{"a", "b"}, Dest: "/d/"}},
		{`COPY ["a b", "c d"]`, Copy{From: main, Sources: []string{"a b"}, Dest: "/base/dir/c d"}},
		{"COPY --link --parents --exclude=*.o --exclude=x/** --chown=1 --chmod=u=rwX,go=rX a/./b d",
			Copy{From: main, Sources: []string{"a/./b"}, Dest: "/base/dir/d", Link: true, Parents: true, Exclude: []string{"*.o", "x/**"}, Chown: "1",
				Chmod: "u=rwX,go=rX"}},
		{"COPY --link=false --chown=name:grp a /", Copy{From: main, Sources: []string{"a"}, Dest: "/", Chown: "name:grp"}},
		{"ADD --unpack a.tar /d", Copy{Add: true, From: main, Sources: []string{"a.tar"}, Dest: "/d", Unpack: &yes}},
		{"ADD --unpack=false --link a.tar /d", Copy{Add: true, From: main, Sources: []string{"a.tar"}, Dest: "/d", Unpack: &no, Link: true}},
		{"ADD --keep-git-dir --checksum=abc --exclude=x https://h/r.git#v1:sub /d", Copy{Add: true, From: main, Dest: "/d", Exclude: []string{"x"},
			Remote: []Remote{{URL: "https://h/r.git#v1:sub", Git: true, KeepGitDir: &yes, Checksum: "abc"}}}},
		{"ADD --chmod=0600 https://h/f git@h:r a /d/", Copy{Add: true, From: main, Dest: "/d/", Chmod: "0600", Sources: []string{"a"},
			Remote: []Remote{{URL: "https://h/f"}, {URL: "git@h:r", Git: true}}}},
		{"COPY a <<EOF <<-'T' /d/\n$B\nEOF\n\t\t$B\n\tT", Copy{From: main, Sources: []string{"a"}, Dest: "/d/",
			Inline: []InlineFile{{"EOF", []byte("base\n")}, {"T", []byte("$B\n")}}}},
		{"ADD <<EOF /d\n\"$B\" \\$B '$B' \\\\\nEOF", Copy{Add: true, From: main, Dest: "/d",
			Inline: []InlineFile{{"EOF", []byte("\"base\" $B 'base' \\\n")}}}},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			equal(t, "copy", *mustPlan(t, "FROM base\n"+tt.text+"\n").Target().Steps[0].Copy, tt.want)
		})
	}
}

func TestDestination(t *testing.T) {
	for dest, want := range map[string]string{
		"/a": "/a", "/a/": "/a/", "a": "/base/dir/a", "a/": "/base/dir/a/", ".": "/base/dir/", "./": "/base/dir/", "..": "/base", "/": "/",
		"/a/.": "/a/", "a/.": "/base/dir/a/", "/a/../b/": "/b/", "../../..": "/", "//a//b": "/a/b",
	} {
		got := mustPlan(t, "FROM base\nCOPY x "+dest+"\n").Target().Steps[0].Copy.Dest
		if got != want {
			t.Errorf("%s: got %s, want %s", dest, got, want)
		}
	}
}

func TestCopyErrors(t *testing.T) {
	sum := "sha256:" + strings.Repeat("a", 64)
	for text, want := range map[string]string{
		"COPY a":                                     "requires at least two arguments",
		"COPY https://h/f /":                         "source can't be a URL for COPY",
		"COPY git@h:r /":                             "source can't be a git ref for COPY",
		"COPY --chmod=778 a b":                       "it should be octal string and between 0 and 07777",
		"COPY --chmod=17777 a b":                     "it should be octal string and between 0 and 07777",
		"COPY --chmod=a=foo a b":                     "chmod",
		"COPY --chmod=$none,x a b":                   "chmod",
		"COPY --link --chown=me a b":                 "names can't be resolved when used with --link (hint: use numeric uid[:gid] instead)",
		"COPY --link --chown=1:grp a b":              "names can't be resolved",
		"COPY --checksum=" + sum + " a b":            "unknown flag: --checksum",
		"COPY --frmo=x a b":                          "did you mean from?",
		"COPY --link=maybe a b":                      "expecting boolean value",
		"COPY a <<EOF\nEOF":                          "cannot accept a heredoc as a destination",
		"ADD --checksum=" + sum + " a b":             "checksum requires HTTP(S) or Git sources",
		"ADD --checksum=" + sum + " https://h/a b c": "checksum can't be specified for multiple sources",
		"ADD --checksum=sha256:x https://h/a b":      "parsing checksum",
		"ADD --from=x a b":                           "unknown flag: --from",
	} {
		_, err := newPlan("FROM scratch\n" + text + "\n")
		wantError(t, err, want, 2)
	}
	_, err := newPlan("FROM scratch\nADD git@h:r /\n", func(o *Options) {
		o.CheckRemote = func(r Remote) error { return errors.New("refused " + r.URL) }
	})
	wantError(t, err, "refused git@h:r", 2)
}

func TestRemoteSources(t *testing.T) {
	const local, http, git = "local", "http", "git"
	for src, want := range map[string]string{
		"a": local, "./git@h:r": local, "../x.git": local, "github.com/o/r": local, "github.com/o/r.git": local, "ftp://h/f": local,
		"file:///x": local, "https://h/f": http, "http://h/": http, "https://h/r.git.zip": http, "http://h/r?x=.git": http,
		"https://h/r.git": git, "http://h/r.git?ref=v1#x:y": git, "HTTPS://h/r.git": git, "ssh://h/r": git, "git://h/r": git,
		"git@h:r": git, "user-1@host.example:path/r.git#v": git, "@h:r": local, "a b@h:r": local, "git@h/r": local, "a@b": local,
	} {
		got := local
		switch {
		case isGit(src):
			got = git
		case isHTTP(src):
			got = http
		}
		if got != want {
			t.Errorf("%s is %s, want %s", src, got, want)
		}
	}
}
