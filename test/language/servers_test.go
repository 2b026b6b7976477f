package language

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
)

// modified is the Last-Modified of what the server has.
var modified = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)

// startServers serves files and git repositories over HTTP until the end of the test. The names it returns are for rows.
func startServers(t *testing.T) map[string]string {
	t.Helper()
	repos := t.TempDir()
	commits := makeRepositories(t, repos)
	mux := http.NewServeMux()
	mux.Handle("/git/", http.StripPrefix("/git", &cgi.Handler{
		Path: "/usr/lib/git-core/git-http-backend",
		Env:  []string{"GIT_PROJECT_ROOT=" + repos, "GIT_HTTP_EXPORT_ALL=1", "HOME=/nonexistent"},
	}))
	mux.Handle("/private-git/", http.StripPrefix("/private-git", guarded("Basic "+basic("x-access-token:tok"), &cgi.Handler{
		Path: "/usr/lib/git-core/git-http-backend",
		Env:  []string{"GIT_PROJECT_ROOT=" + repos, "GIT_HTTP_EXPORT_ALL=1", "HOME=/nonexistent"},
	})))
	file := func(path, content string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", modified, strings.NewReader(content))
		})
	}
	file("/file.txt", "remote\n")
	file("/dir/", "served as a directory\n")
	file("/archive.tar.gz",
		string(archive(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY in.txt /\n", "in.txt": "from an archive\n"})))
	file("/Dockerfile", "FROM scratch\nENV from=http\n")
	mux.HandleFunc("/named", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Disposition", `attachment; filename="called.txt"`)
		_, _ = w.Write([]byte("named by the server\n"))
	})
	mux.HandleFunc("/hostile", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Disposition", `attachment; filename="../../canary"`)
		_, _ = w.Write([]byte("x\n"))
	})
	mux.Handle("/moved", http.RedirectHandler("/file.txt", http.StatusFound))
	mux.Handle("/private", guarded("Bearer tok", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("for members\n"))
	})))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return map[string]string{
		"http": s.URL, "host": strings.TrimPrefix(s.URL, "http://"), "git": s.URL + "/git/repo.git",
		"commit": commits[0], "old": commits[1],
	}
}

// guarded lets those in who say the word.
func guarded(word string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Authorization"), word) {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func basic(userinfo string) string {
	r := http.Request{Header: http.Header{}}
	name, password, _ := strings.Cut(userinfo, ":")
	r.SetBasicAuth(name, password)
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
}

// archive is a gzipped tar of these files.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	w := tar.NewWriter(gz)
	for name, content := range files {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: modified}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// makeRepositories makes repo.git with two commits, a branch, a tag and a submodule, and sub.git, the submodule. It returns the newer and the older
// commit of repo.git.
func makeRepositories(t *testing.T, dir string) [2]string {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out := harness.Run(t, "sh", "-euc", `
cd "$1"
export HOME="$1" GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='2020-02-03T04:05:06Z' GIT_COMMITTER_DATE='2020-02-03T04:05:06Z'
git init -q -b main sub && cd sub && echo sub > sub.txt && git add . && git commit -qm sub && cd ..
git init -q -b main work && cd work
git config protocol.file.allow always
echo one > file.txt; mkdir -p dir/deep; echo deep > dir/deep/d.txt; printf '#!/bin/sh\n' > run.sh; chmod 755 run.sh
printf 'FROM scratch\nCOPY . /\n' > Dockerfile; printf 'FROM scratch\nCOPY deep /\n' > dir/Dockerfile
git add . && git commit -qm one && git tag -a v1 -m v1
git rev-parse HEAD
git checkout -q -b other && echo branch > file.txt && git commit -qam branch && git checkout -q main
echo two > file.txt && git -c protocol.file.allow=always submodule add -q ../sub sub && git config -f .gitmodules submodule.sub.url ../sub.git
git add . && git commit -qm two
git rev-parse HEAD
cd ..
git clone -q --bare work repo.git && git clone -q --bare sub sub.git
git init -q -b main --object-format=sha256 s && cd s && echo sha256 > f && git add . && git commit -qm s && cd .. && git clone -q --bare s sha256.git
git -C repo.git config uploadpack.allowAnySHA1InWant true
`, "sh", dir)
	lines := strings.Fields(out)
	return [2]string{lines[1], lines[0]}
}
