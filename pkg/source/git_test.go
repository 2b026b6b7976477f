package source

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/plan"
)

func TestParseGitURL(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		in   string
		want GitURL
	}{
		{"https://h/r.git", GitURL{Remote: "https://h/r.git"}},
		{"http://h/r.git#v1", GitURL{Remote: "http://h/r.git", Ref: "v1"}},
		{"https://h/r.git#v1:sub/dir", GitURL{Remote: "https://h/r.git", Ref: "v1", Subdir: "sub/dir"}},
		{"https://h/r.git#:sub", GitURL{Remote: "https://h/r.git", Subdir: "sub"}},
		{"https://h/r.git#v1:../../x", GitURL{Remote: "https://h/r.git", Ref: "v1", Subdir: "x"}},
		{"https://u:p@h:8/a/r.git?ref=v1&subdir=s", GitURL{Remote: "https://u:p@h:8/a/r.git", Ref: "v1", Subdir: "s"}},
		{"git://h/r#b", GitURL{Remote: "git://h/r", Ref: "b"}},
		{"ssh://git@h:22/r", GitURL{Remote: "ssh://git@h:22/r"}},
		{"git@h:o/r.git#v1", GitURL{Remote: "git@h:o/r.git", Ref: "v1"}},
		{"git@h:o/r?tag=v1", GitURL{Remote: "git@h:o/r", Ref: "refs/tags/v1"}},
		{"github.com/o/r", GitURL{Remote: "https://github.com/o/r"}},
		{"github.com/o/r#main:x", GitURL{Remote: "https://github.com/o/r", Ref: "main", Subdir: "x"}},
		{"https://h/r.git?tag=v1", GitURL{Remote: "https://h/r.git", Ref: "refs/tags/v1"}},
		{"https://h/r.git?branch=refs/heads/b", GitURL{Remote: "https://h/r.git", Ref: "refs/heads/b"}},
		{"https://h/r.git?tag=v1#refs/tags/v1", GitURL{Remote: "https://h/r.git", Ref: "refs/tags/v1"}},
		{"https://h/r.git?commit=abc123", GitURL{Remote: "https://h/r.git", Commit: "abc123"}},
		{"https://h/r.git?checksum=abc123", GitURL{Remote: "https://h/r.git", Commit: "abc123"}},
		{"https://h/r.git?keep-git-dir&submodules=false", GitURL{Remote: "https://h/r.git", KeepGitDir: &yes, Submodules: &no}},
		{"https://h/r.git?keep-git-dir=0", GitURL{Remote: "https://h/r.git", KeepGitDir: &no}},
		{"https://h/r.git?mtime=commit", GitURL{Remote: "https://h/r.git", CommitTime: true}},
		{"https://h/r.git?mtime=checkout", GitURL{Remote: "https://h/r.git"}},
		{"https://h/r.git?fetch-by-commit&ref=" + strings.Repeat("a", 40), GitURL{Remote: "https://h/r.git", Ref: strings.Repeat("a", 40), FetchByCommit: true}},
	} {
		u, ok, err := ParseGitURL(c.in)
		if err != nil || !ok {
			t.Errorf("%s: %v %v", c.in, ok, err)
			continue
		}
		if got, want := render(*u), render(c.want); got != want {
			t.Errorf("%s: %s, want %s", c.in, got, want)
		}
	}
	for _, in := range []string{"./r.git", "../r.git", "/r.git", "r.git", "https://h/r", "http://h/r.tar.gz", "ftp://h/r.git", "file:///r.git", "ext::sh -c id",
		"dir", "", "h:r", "--upload-pack=touch", "https://github.com/o/r", "C:\\x", "docker-image://x"} {
		if u, ok, _ := ParseGitURL(in); ok {
			t.Errorf("%q is taken for a git URL: %+v", in, u)
		}
	}
}

func render(u GitURL) string {
	flag := func(b *bool) string {
		if b == nil {
			return "-"
		}
		return fmt.Sprint(*b)
	}
	return fmt.Sprint(u.Remote, " ", u.Ref, " ", u.Commit, " ", u.Subdir, " ", flag(u.KeepGitDir), " ", flag(u.Submodules), " ", u.CommitTime, " ", u.FetchByCommit)
}

func TestGitURLConflicts(t *testing.T) {
	for in, want := range map[string]string{
		"https://h/r.git?ref=a#b":               `ref is both`,
		"https://h/r.git?tag=a#refs/heads/b":    `ref is both`,
		"https://h/r.git?tag=a&branch=a":        "exclude each other",
		"https://h/r.git?ref=a&ref=b":           "more than once",
		"https://h/r.git?subdir=a#:b":           "subdir is both",
		"https://h/r.git?commit=aa&checksum=bb": "commit is both",
		"https://h/r.git?commit=xyz":            "hexadecimal",
		"https://h/r.git?ref":                   "no value",
		"https://h/r.git?nope=1":                "unknown parameter",
		"https://h/r.git?mtime=now":             "neither checkout nor commit",
		"https://h/r.git?keep-git-dir=maybe":    "neither true nor false",
		"https://h/r.git?fetch-by-commit":       "whole commit id",
		"https:///r.git":                        "no host",
	} {
		if _, ok, err := ParseGitURL(in); !ok || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %v, want %q", in, ok, err, want)
		}
	}
}

// hostile are URLs and refs that have made git or ssh run something (SECURITY.md C5, C2). CANARY is a script that leaves a mark.
var hostile = []string{
	"ssh://-oProxyCommand=CANARY/r", "ssh://-oProxyCommand=CANARY@h/r", "ssh://git@-oProxyCommand=CANARY/r", "ssh://h/-oProxyCommand=CANARY",
	"ssh://[-oProxyCommand=CANARY]/r", "git@-oProxyCommand=CANARY:r", "-git@h:r", "git@h:-oProxyCommand=CANARY", "git@h:--upload-pack=CANARY",
	"git://-oProxyCommand=CANARY/r", "git://h/--upload-pack=CANARY", "https://-u/r.git", "ssh://%2doProxyCommand=CANARY/r", "ssh://h/%2dx",
	"https://h/r.git#--upload-pack=CANARY", "https://h/r.git#-c", "https://h/r.git?ref=--upload-pack=CANARY", "https://h/r.git?branch=../../x",
	"https://h/r.git?ref=a..b", "https://h/r.git?ref=a%0ab", "https://h/r.git?ref=a%00b", "https://h/r.git?ref=a%20b", "https://h/r.git?ref=a:b",
	"https://h/r.git?ref=@{-1}", "https://h/r.git?ref=HEAD^", "https://h/r.git?ref=HEAD~1", "https://h/r.git?ref=*", "https://h/r.git?ref=a%5Cb",
	"https://h/r.git?ref=x.lock", "https://h/r.git?ref=/x", "https://h/r.git?ref=x/", "https://h/r.git?tag=-x%0a", "https://h/r.git?commit=--help",
	"https://h/r.git?subdir=a%0ab", "https://h/%0a.git", "git@h:r\nx", "ext::CANARY", "fd::17/x", "file://CANARY/r.git", "--upload-pack=CANARY",
	"https://h/r.git?commit=0;CANARY", "transport::x", "-oProxyCommand=CANARY@h:r",
}

func TestC5HostileURLs(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "mark")
	canary := filepath.Join(dir, "canary")
	if err := os.WriteFile(canary, []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, u := range hostile {
		u = strings.ReplaceAll(u, "CANARY", canary)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if c, err := Open(ctx, u, "", testOptions(t)); err == nil {
			t.Errorf("%q was opened", u)
			_ = c.Close()
		}
		parsed, ok, err := ParseGitURL(u)
		if ok && err == nil && !strings.Contains(u, "subdir") {
			t.Errorf("%q is taken for %+v", u, parsed)
		}
		cancel()
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("A PROGRAM WAS RUN by a hostile URL")
	}
}

// repository is a git repository with a history, served over http.
type repository struct {
	t   testing.TB
	dir string
}

func newRepository(t testing.TB) *repository {
	t.Helper()
	r := &repository{t, filepath.Join(t.TempDir(), "repo")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("init", "-q", "-b", "main")
	r.commit("first", "Dockerfile=FROM scratch", "sub/f=1", "run.sh=#!")
	if err := os.Chmod(filepath.Join(r.dir, "run.sh"), 0o775); err != nil {
		t.Fatal(err)
	}
	r.git("tag", "v1")
	r.commit("second", "sub/f=2")
	r.git("tag", "-a", "-m", "annotated", "v2")
	r.git("checkout", "-q", "-b", "side", "v1")
	r.commit("third", "side=3", "out->/etc", "sub/link->../run.sh")
	r.git("checkout", "-q", "main")
	return r
}

func (r *repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_AUTHOR_DATE=1500000000 +0000", "GIT_COMMITTER_DATE=1500000000 +0000",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=protocol.file.allow", "GIT_CONFIG_VALUE_0=always")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repository) commit(message string, files ...string) {
	r.t.Helper()
	write(r.t, r.dir, files...)
	r.git("add", "-A")
	r.git("commit", "-q", "-m", message)
}

// smart serves the repository through git's own CGI program; dumb serves its files.
func (r *repository) smart() string {
	r.t.Helper()
	exe := r.git("--exec-path") + "/git-http-backend"
	return serve(r.t, func(w http.ResponseWriter, req *http.Request) {
		(&cgi.Handler{Path: exe, Env: []string{"GIT_PROJECT_ROOT=" + r.dir, "GIT_HTTP_EXPORT_ALL=1"}}).ServeHTTP(w, req)
	}) + "/.git"
}

func (r *repository) dumb() string {
	r.t.Helper()
	r.git("update-server-info")
	return serve(r.t, http.FileServer(http.Dir(r.dir)).ServeHTTP) + "/.git"
}

func needGit(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Fatal("these tests need the git program")
	}
}

func openGit(t testing.TB, u string, o ContextOptions) (*Context, error) {
	t.Helper()
	return OpenNamed(context.Background(), u, o)
}

func TestGitCheckout(t *testing.T) {
	needGit(t)
	r := newRepository(t)
	v1, main, side, tag := r.git("rev-parse", "v1"), r.git("rev-parse", "main"), r.git("rev-parse", "side"), r.git("rev-parse", "v2")
	const all = "[Dockerfile run.sh sub/ sub/f]"
	for server, base := range map[string]string{"smart": r.smart(), "dumb": r.dumb()} {
		for _, c := range []struct{ suffix, commit, files string }{
			{"", main, all},
			{"#main", main, all},
			{"#v1", v1, all},
			{"#v2", main, all},
			{"#refs/tags/v2", main, all},
			{"#side", side, "[Dockerfile out run.sh side sub/ sub/f sub/link]"},
			{"#" + v1, v1, all},
			{"#" + tag, main, all},
			{"#v1:sub", v1, "[f]"},
			{"#:sub", main, "[f]"},
			{"?branch=side&subdir=sub", side, "[f link]"},
			{"?tag=v2&commit=" + main[:10], main, all},
			{"?tag=v2&commit=" + tag, main, all},
			{"?commit=" + main + "&fetch-by-commit=1&ref=other", main, all},
		} {
			if server == "dumb" && strings.ContainsAny(c.suffix, ":?") {
				continue // the same from here on
			}
			ctx, err := openGit(t, base+c.suffix, testOptions(t))
			if err != nil {
				t.Errorf("%s %s: %v", server, c.suffix, err)
				continue
			}
			if got := fmt.Sprint(names(t, ctx, ".")); got != c.files || ctx.Commit != c.commit {
				t.Errorf("%s %s: commit %s with %s, want %s with %s", server, c.suffix, ctx.Commit, got, c.commit, c.files)
			}
			if ctx.Time.Unix() != 1500000000 {
				t.Errorf("%s %s: time %s", server, c.suffix, ctx.Time)
			}
			if err := ctx.Close(); err != nil {
				t.Error(err)
			}
		}
		for suffix, want := range map[string]string{
			"#nope": `no ref "nope"`, "#v1:nope": "subdirectory", "#v1:Dockerfile": "subdirectory", "#side:out": "subdirectory",
			"?ref=v1&commit=" + main: "expected " + main, "#" + strings.Repeat("0", 40): "0000", "?branch=v1": "no ref", "?ref=" + v1[:8]: "no ref",
			"?fetch-by-commit&commit=" + strings.Repeat("1", 40): "1111",
		} {
			if server == "dumb" && !strings.HasPrefix(suffix, "#n") {
				continue
			}
			if ctx, err := openGit(t, base+suffix, testOptions(t)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v, want %q", server, suffix, err, want)
				if err == nil {
					_ = ctx.Close()
				}
			}
		}
	}
}

func TestGitModesAndTimes(t *testing.T) {
	needGit(t)
	r := newRepository(t)
	u := r.smart()
	defer syscall.Umask(syscall.Umask(0o077))
	for suffix, sameTime := range map[string]bool{"": false, "?mtime=commit": true, "?mtime=checkout": false} {
		c, err := openGit(t, u+suffix, testOptions(t))
		if err != nil {
			t.Fatal(err)
		}
		for name, mode := range map[string]int64{"run.sh": 0o755, "sub/f": 0o644, "sub": 0o755, ".": 0o755} {
			e, err := c.Lstat(name)
			if err != nil || e.Mode != mode || e.UID != 0 {
				t.Errorf("%s%s: %+v %v, want mode %o", suffix, name, e, err, mode)
			}
			if (e.ModTime.Unix() == 1500000000) != sameTime {
				t.Errorf("%s%s: time %s", suffix, name, e.ModTime)
			}
		}
		_ = c.Close()
	}
}

func TestGitKeepDir(t *testing.T) {
	needGit(t)
	r := newRepository(t)
	u := strings.Replace(r.smart(), "http://", "http://user:PASSWORD@", 1)
	for _, suffix := range []string{"?keep-git-dir=1", "?keep-git-dir&ref=v2", "?keep-git-dir&ref=" + r.git("rev-parse", "v1")} {
		c, err := openGit(t, u+suffix, testOptions(t))
		if err != nil {
			t.Fatalf("%s: %v", suffix, err)
		}
		if _, err := c.Lstat(".git/HEAD"); err != nil {
			t.Errorf("%s: %v", suffix, err)
		}
		if _, err := c.Lstat(".git/FETCH_HEAD"); err == nil {
			t.Errorf("%s: .git/FETCH_HEAD is left", suffix)
		}
		for _, name := range names(t, c, ".git") {
			f, err := c.Open(name)
			if err != nil {
				continue
			}
			var b strings.Builder
			if _, err := io.Copy(&b, f); err != nil {
				t.Error(err)
			}
			_ = f.Close()
			if strings.Contains(b.String(), "PASSWORD") {
				t.Errorf("%s: THE PASSWORD IS IN %s", suffix, name)
			}
		}
		_ = c.Close()
	}
	// A subdirectory has no .git of its own.
	c, err := openGit(t, u+"?keep-git-dir#:sub", testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names(t, c, ".")); got != "[f]" {
		t.Errorf("names %s", got)
	}
	_ = c.Close()
}

func TestGitErrorsHidePasswords(t *testing.T) {
	needGit(t)
	u := serve(t, http.NotFound)
	_, err := openGit(t, strings.Replace(u, "http://", "http://user:PASSWORD@", 1)+"/r.git", testOptions(t))
	if err == nil || strings.Contains(err.Error(), "PASSWORD") {
		t.Errorf("error %v", err)
	}
}

func TestGitSecrets(t *testing.T) {
	needGit(t)
	r := newRepository(t)
	inner := r.smart()
	var sent atomic.Value
	u := serve(t, func(w http.ResponseWriter, req *http.Request) {
		got := req.Header.Get("Authorization")
		sent.Store(got)
		if got == "" {
			http.Error(w, "who?", http.StatusUnauthorized)
			return
		}
		resp, err := http.Get(strings.TrimSuffix(inner, "/.git") + req.URL.RequestURI())
		if err != nil || req.Method != http.MethodGet {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(http.StatusNotFound)
	}) + "/.git"
	for id, want := range map[string]string{"GIT_AUTH_TOKEN": "basic eC1hY2Nlc3MtdG9rZW46UzNDUkVU", "GIT_AUTH_HEADER": "S3CRET"} {
		o := testOptions(t)
		o.Secret = func(s string) ([]byte, bool) { return []byte("S3CRET\n"), s == id }
		_, err := openGit(t, u, o)
		if got := sent.Load(); got != want {
			t.Errorf("%s: %q was sent, want %q", id, got, want)
		}
		if err == nil || strings.Contains(err.Error(), "S3CRET") {
			t.Errorf("%s: error %v", id, err)
		}
	}
}

func TestGitSubmodules(t *testing.T) {
	needGit(t)
	sub := newRepository(t)
	subURL := sub.smart()
	r := newRepository(t)
	r.git("submodule", "--quiet", "add", subURL, "module")
	r.git("commit", "-q", "-m", "module")
	u := r.smart()
	for suffix, want := range map[string]bool{"": true, "?submodules=false": false, "?submodules": true} {
		c, err := openGit(t, u+suffix, testOptions(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Lstat("module/sub/f"); (err == nil) != want {
			t.Errorf("%s: module/sub/f: %v", suffix, err)
		}
		if _, err := c.Lstat("module/.git"); err == nil {
			t.Errorf("%s: module/.git is left", suffix)
		}
		_ = c.Close()
	}
}

// SECURITY.md C5: a submodule cannot be fetched from the file system or through a program (CVE-2022-39253), and no hook of it
// is run.
func TestC5HostileSubmodules(t *testing.T) {
	needGit(t)
	secret := newRepository(t)
	mark := filepath.Join(t.TempDir(), "mark")
	for _, url := range []string{secret.dir, "file://" + secret.dir, "ext::sh -c 'touch " + mark + "'", "-u./touch", "--upload-pack=touch " + mark} {
		r := newRepository(t)
		write(t, r.dir, ".gitmodules=[submodule \"m\"]\n\tpath = m\n\turl = "+url+"\n")
		r.git("add", "-A")
		r.git("update-index", "--add", "--cacheinfo", "160000,"+secret.git("rev-parse", "main")+",m")
		r.git("commit", "-q", "-m", "hostile")
		c, err := openGit(t, r.smart(), testOptions(t))
		if err == nil {
			if _, err := c.Lstat("m/Dockerfile"); err == nil {
				t.Errorf("%s: HOST REPOSITORY WAS COPIED into the context", url)
			}
			_ = c.Close()
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("A PROGRAM WAS RUN by a hostile submodule")
	}
}

// SECURITY.md C1, C2: symlinks of a repository do not lead out of it.
func TestC1GitSymlinks(t *testing.T) {
	needGit(t)
	r := newRepository(t)
	r.commit("links", "host->/", "up->../..", "Dockerfile2->/etc/passwd", "dir->sub")
	u := r.smart()
	for _, sub := range []string{"host", "host/etc", "up", "dir", "../../etc"} {
		if c, err := openGit(t, u+"#main:"+sub, testOptions(t)); err == nil {
			t.Errorf("HOST DIRECTORY IS THE CONTEXT through subdir %s: %v", sub, names(t, c, ".")[:1])
			_ = c.Close()
		}
	}
	if c, err := Open(context.Background(), u, "Dockerfile2", testOptions(t)); err == nil {
		t.Errorf("HOST FILE IS THE DOCKERFILE: %q", c.Dockerfile)
		_ = c.Close()
	}
}

func TestGitRemote(t *testing.T) {
	needGit(t)
	r := newRepository(t)
	u, main := r.smart(), r.git("rev-parse", "main")
	yes, no := true, false
	for _, c := range []struct {
		r       plan.Remote
		wantErr string
	}{
		{plan.Remote{URL: u, Git: true}, ""},
		{plan.Remote{URL: u, Git: true, Checksum: main[:12], KeepGitDir: &yes}, ""},
		{plan.Remote{URL: u, Git: true, Checksum: strings.Repeat("0", 12)}, "expected 000000000000"},
		{plan.Remote{URL: u, Git: true, Checksum: "xyz"}, "hexadecimal"},
		{plan.Remote{URL: u + "?commit=" + main, Git: true, Checksum: main[:12]}, "commit is both"},
		{plan.Remote{URL: u + "?keep-git-dir", Git: true, KeepGitDir: &no}, "differ"},
		{plan.Remote{URL: "https://h/x.tar", Git: true}, "no URL of a git repository"},
	} {
		ctx, name, err := OpenRemote(context.Background(), c.r, testOptions(t))
		if c.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("%+v: %v, want %q", c.r, err, c.wantErr)
			}
			continue
		}
		if err != nil || name != "" {
			t.Errorf("%+v: %q %v", c.r, name, err)
			continue
		}
		if _, err := ctx.Lstat(".git"); (err == nil) != (c.r.KeepGitDir != nil) {
			t.Errorf("%+v: .git: %v", c.r, err)
		}
		_ = ctx.Close()
	}
}

func TestGitMainContext(t *testing.T) {
	needGit(t)
	r := newRepository(t)
	r.commit("ignore", ".dockerignore=sub")
	o := testOptions(t)
	o.Git = GitOptions{KeepGitDir: true, CommitTime: true}
	c, err := Open(context.Background(), r.smart(), "", o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if string(c.Dockerfile) != "FROM scratch" {
		t.Errorf("Dockerfile %q", c.Dockerfile)
	}
	for _, name := range []string{".git/HEAD", "sub/f"} {
		if _, err := c.Lstat(name); err != nil {
			t.Error(err)
		}
	}
	if e, _ := c.Lstat("sub/f"); e.ModTime.Unix() != 1500000000 {
		t.Errorf("time %s", e.ModTime)
	}
}

// Reading a reference takes time in proportion to its length, so that length has a bound.
func TestGitURLTooLong(t *testing.T) {
	long := strings.Repeat(".loc", maxGitURL/4)
	if _, ok, err := ParseGitURL("https://user:secret@host.example/r.git#" + long); !ok || err == nil ||
		!strings.HasPrefix(err.Error(), "git URL https://host.example…: it is longer than 8192 bytes") {
		t.Errorf("%v %v", ok, err)
	}
	if _, ok, err := ParseGitURL("git@host.example:r.git#" + long); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	if _, ok, err := ParseGitURL("https://host.example/file?signature=" + long); ok || err != nil {
		t.Errorf("a URL that is no repository's: %v %v", ok, err)
	}
}

func FuzzGitURL(f *testing.F) {
	for _, u := range hostile {
		f.Add(u)
	}
	f.Add("https://h/r.git?ref=v1&subdir=a/../b#v1:b")
	f.Add("http://h/r.git?subdir=\xff")
	clean := regexp.MustCompile(`^[^\x00-\x1f\x7f]*$`)
	f.Fuzz(func(t *testing.T, s string) {
		u, ok, err := ParseGitURL(s)
		if err != nil || !ok {
			return
		}
		if strings.HasPrefix(u.Remote, "-") || strings.HasPrefix(u.Ref, "-") || !clean.MatchString(u.Ref) || !clean.MatchString(u.Subdir) {
			t.Errorf("%q: remote %q, ref %q, subdir %q", s, u.Remote, u.Ref, u.Subdir)
		}
		if u.Subdir != "" && !fs.ValidPath(u.Subdir) {
			t.Errorf("%q: subdir %q", s, u.Subdir)
		}
		_, host, ok := strings.Cut(u.Remote, "://")
		if !ok {
			host = u.Remote
		}
		host = host[:strings.IndexAny(host+"/", "/:")]
		if strings.HasPrefix(host, "-") || strings.HasPrefix(host[strings.LastIndex(host, "@")+1:], "-") {
			t.Errorf("%q: the host of %q begins with a dash", s, u.Remote)
		}
	})
}
