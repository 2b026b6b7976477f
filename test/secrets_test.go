package test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/cairn-build/cairn/test/torture"
)

// canary is a secret of 64 bytes that is like nothing else.
const canary = "cAnAry-5f1e0c7b9a3d-2468-ACEG/bdfh+wxyz~T12~0123456789~secret~64"

// formsOfCanary are the ways in which it would be found: as it is, in hex, in base64 at each of three places, escaped as in a URL and in JSON.
func formsOfCanary() [][]byte {
	forms := [][]byte{[]byte(canary), []byte(hex.EncodeToString([]byte(canary))), []byte(strings.NewReplacer("/", "%2F", "+", "%2B").Replace(canary)),
		[]byte(strings.ReplaceAll(canary, "/", "%2F"))}
	for skip := range 3 {
		whole := canary[skip : len(canary)-(len(canary)-skip)%3]
		forms = append(forms, []byte(base64.RawStdEncoding.EncodeToString([]byte(whole))), []byte(base64.RawURLEncoding.EncodeToString([]byte(whole))))
	}
	return forms
}

// showsCanary reports where the canary is: in data, or in what is inside of it when it is a compressed tar.
func showsCanary(t *testing.T, name string, data []byte) (found []string) {
	t.Helper()
	for _, form := range formsOfCanary() {
		if bytes.Contains(data, form) {
			found = append(found, fmt.Sprintf("%s has %.20s…", name, form))
		}
	}
	if z, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
		inner, err := io.ReadAll(z)
		if err != nil && len(inner) == 0 {
			return found
		}
		found = append(found, showsCanary(t, name+" (uncompressed)", inner)...)
	}
	if len(data) > 262 && string(data[257:262]) == "ustar" {
		for tr := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := tr.Next()
			if err != nil {
				return found
			}
			inner, _ := io.ReadAll(tr)
			found = append(found, showsCanary(t, name+":"+h.Name, inner)...)
		}
	}
	return found
}

// searchTree looks for the canary in every file below dir, in names and in the targets of links. What is left out is what the test put there.
func searchTree(t *testing.T, dir string, except ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, e := range except {
			if path == e {
				return nil
			}
		}
		data := []byte(path)
		switch {
		case d.Type().IsRegular():
			if data, err = os.ReadFile(path); err != nil {
				return err
			}
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			data = []byte(to)
		}
		for _, f := range showsCanary(t, path, data) {
			t.Error(f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// searchProcesses looks for the canary in the arguments and the environment of everything that was started from the home, but for the first
// process, whose environment is the user's own doing, and that of the RUN, which is meant to have it.
func searchProcesses(t *testing.T, h *harness.Home, ours int) {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		if proc == fmt.Sprintf("/proc/%d", ours) {
			continue
		}
		exe, _ := os.Readlink(filepath.Join(proc, "exe"))
		if !strings.HasSuffix(exe, "/cairn") {
			continue
		}
		for _, name := range []string{"cmdline", "environ"} {
			data, _ := os.ReadFile(filepath.Join(proc, name))
			if name == "environ" && (bytes.Contains(data, []byte("GIVEN="+canary)) || bytes.Contains(data, []byte("https_proxy=http"))) {
				continue // handed down by the user, under the user's name for it
			}
			if name == "cmdline" && (bytes.Contains(data, []byte("/repo/.git")) || bytes.Contains(data, []byte("API_TOKEN="))) {
				continue // the program again, with the arguments that the user typed
			}
			for _, f := range showsCanary(t, filepath.Join(proc, name), data) {
				t.Error(f)
			}
		}
	}
}

// routes are the ways by which a secret comes into a build (T12).
var routes = []struct {
	name, instruction string
	args              []string
	env               []string
	// prepare makes what a route needs beside the home.
	prepare func(t *testing.T, h *harness.Home, of *harness.Registry) prepared
	// public means that it is documented to be no secret: the user is warned.
	public bool
}{
	{name: "registry", instruction: "RUN %s", prepare: func(t *testing.T, h *harness.Home, of *harness.Registry) prepared {
		addr := guarded(t, proxyTo(of))
		h.Files(map[string]string{"docker/config.json": fmt.Sprintf(`{"auths":{%q:{"username":"u","password":%q}}}`, addr, canary)})
		return prepared{base: addr + "/base/busybox:latest", env: []string{"DOCKER_CONFIG=" + h.Path("docker")}, given: []string{h.Path("docker/config.json")}}
	}},
	{name: "git", instruction: "RUN %s", prepare: func(t *testing.T, h *harness.Home, _ *harness.Registry) prepared {
		repo := h.Path("repo")
		h.Run("sh", "-ec", "mkdir "+repo+"; cd "+repo+"; git init -q -b main; cp ../Dockerfile .; git add .; git -c user.name=a -c user.email=a@b commit -qm one")
		core := strings.TrimSpace(h.Run("git", "--exec-path"))
		addr := guarded(t, &cgi.Handler{Path: filepath.Join(core, "git-http-backend"),
			Env: []string{"GIT_PROJECT_ROOT=" + h.Work, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}})
		u := url.URL{Scheme: "http", User: url.UserPassword("u", canary), Host: addr, Path: "/repo/.git"}
		return prepared{context: u.String()}
	}},
	{name: "file", instruction: "RUN --mount=type=secret,id=key [ $(wc -c < /run/secrets/key) = 65 ] || exit 9; cat /run/secrets/key; base64 < /run/secrets/key > /dev/null; %s",
		args: []string{"--secret", "id=key,src=key"}},
	{name: "variable", instruction: "RUN --mount=type=secret,id=key,env=KEY [ ${#KEY} = 64 ] || exit 9; echo key=$KEY; echo $KEY >&2; %s",
		args: []string{"--secret", "id=key,env=GIVEN"}, env: []string{"GIVEN=" + canary}},
	{name: "agent", instruction: "COPY ask /ask\nRUN --mount=type=ssh [ $(/ask | wc -c) = 64 ] || exit 9; %s", args: []string{"--ssh", "default=agent"}, prepare: agent},
	{name: "proxy", instruction: "RUN [ ${#https_proxy} = 83 ] || exit 9; %s",
		env: []string{"https_proxy=http://u:" + canary + "@127.0.0.1", "no_proxy=127.0.0.1"}},
	{name: "build argument", instruction: "ARG API_TOKEN\nRUN [ ${#API_TOKEN} = 64 ] || exit 9; %s", args: []string{"--build-arg", "API_TOKEN=" + canary}, public: true},
}

// prepared is what a route needs: another base, another context, more environment, and files in which the user has the secret.
type prepared struct {
	base, context string
	env, given    []string
}

// agent is an SSH agent that tells everybody the canary, and a program that asks it.
func agent(t *testing.T, h *harness.Home, _ *harness.Registry) prepared {
	h.Files(map[string]string{"ask.c": `
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(void) {
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  char said[100];
  int s = socket(AF_UNIX, SOCK_STREAM, 0), n;
  strncpy(to.sun_path, getenv("SSH_AUTH_SOCK"), sizeof to.sun_path - 1);
  if (connect(s, (struct sockaddr *)&to, sizeof to)) return 1;
  while ((n = read(s, said, sizeof said)) > 0) write(1, said, n);
  return n;
}`})
	h.Run("gcc", "-static", "-o", h.Path("ask"), h.Path("ask.c"))
	l, err := net.Listen("unix", h.Path("agent"))
	if err == nil {
		err = os.Chmod(h.Path("agent"), 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, canary)
			c.Close()
		}
	}()
	return prepared{}
}

// guarded is a server that answers who knows the canary.
func guarded(t *testing.T, handler http.Handler) (addr string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != canary {
			w.Header().Set("WWW-Authenticate", `Basic realm="guarded"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Header.Del("Authorization")
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func proxyTo(of *harness.Registry) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: of.Addr})
		p.Out.Host = p.In.Host
	}}
}

// TestSecrets is T12: a secret that comes in by any route is nowhere afterwards, however the build ends; of what is no secret the
// user is told.
func TestSecrets(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	closed := harness.StartRegistry(t, harness.RegistryOptions{Auth: true})
	outcomes := []string{"built", "RUN fails", "push fails", "killed", "panics"}
	t.Cleanup(func() {
		torture.Figure(t, "T12", "%d builds that had a secret by one of %d routes and ended in one of %d ways: it was nowhere afterwards, and no process of the builder showed it",
			(len(routes)-1)*len(outcomes), len(routes)-1, len(outcomes))
		torture.Figure(t, "T12", "%d builds with a token as a build argument, which ended in one of %d ways: each warned that it is no secret", len(outcomes), len(outcomes))
	})
	for _, route := range routes {
		for _, outcome := range outcomes {
			t.Run(route.name+"/"+outcome, func(t *testing.T) {
				t.Parallel()
				h := harness.NewHome(t, harness.Unprivileged(t))
				h.Env = append(h.Env, route.env...)
				end := map[string]string{"RUN fails": "exit 3", "killed": "echo ready; sleep 1000", "panics": "echo ready; sleep 1000"}[outcome]
				if end == "" {
					end = "echo fine > /fine"
				}
				dockerfile := func(base string) map[string]string {
					return map[string]string{"key": canary + "\n", "Dockerfile": "FROM " + base + "\n" + fmt.Sprintf(route.instruction, end) + "\n"}
				}
				dir := h.Files(dockerfile(base))
				var p prepared
				if route.prepare != nil {
					p = route.prepare(t, h, registry)
					h.Env = append(h.Env, p.env...)
				}
				if p.base != "" {
					h.Files(dockerfile(p.base))
				}
				if p.context != "" {
					dir = p.context
				}
				progress := "rawjson"
				dies := outcome == "killed" || outcome == "panics"
				if dies {
					progress = "plain"
				}
				args := append([]string{"build", "--root", h.Root, "--progress", progress, "-o", "type=oci,dest=out.tar", "--metadata-file", "meta.json",
					"--cache-to", "type=local,dest=cache,mode=max"}, route.args...)
				if outcome == "push fails" {
					args = append(args, "--push", "-t", closed.Name("x"))
				}
				log, err := os.Create(h.Path("log"))
				if err != nil {
					t.Fatal(err)
				}
				defer log.Close()
				cmd := h.CairnCommand(append(args, dir)...)
				cmd.Stdout, cmd.Stderr = log, log
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if dies {
					harness.WaitFor(t, 60*time.Second, "the RUN step runs", func() bool {
						data, _ := os.ReadFile(h.Path("log"))
						return bytes.Contains(data, []byte(" ready\n"))
					})
					if !route.public {
						searchProcesses(t, h, cmd.Process.Pid)
					}
				}
				switch outcome {
				case "killed":
					_ = cmd.Process.Signal(syscall.SIGKILL)
				case "panics":
					abort(t, h)
				}
				_ = cmd.Wait()
				data, _ := os.ReadFile(h.Path("log"))
				if outcome == "panics" && !bytes.Contains(data, []byte("goroutine ")) {
					t.Errorf("nothing is said of the end: %s", data)
				}
				if code := cmd.ProcessState.ExitCode(); (code == 0) != (outcome == "built") {
					t.Fatalf("exit code %d\n%s", code, data)
				}
				harness.WaitFor(t, 10*time.Second, "no process is left", func() bool { return len(h.Processes()) == 0 })
				if !route.public {
					searchTree(t, h.Dir, append(p.given, h.Path("key"))...)
				} else if !says(string(data), "secretsusedinargorenv", "secrets-used-in-arg-or-env") { // the one in rawjson is in base64
					t.Errorf("no warning: %s", data)
				}
				if r := h.Cairn("system", "check", "--read-data", "--root", h.Root).OK(t); r.Stdout != "" {
					t.Error(r.Stdout)
				}
			})
		}
	}
}

// abort ends every process of cairn as a fatal error of its own would: each writes the stacks of all its goroutines.
func abort(t *testing.T, h *harness.Home) {
	t.Helper()
	n := 0
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		exe, _ := os.Readlink(filepath.Join(proc, "exe"))
		env, _ := os.ReadFile(filepath.Join(proc, "environ"))
		pid, _ := strconv.Atoi(filepath.Base(proc))
		if strings.HasSuffix(exe, "/cairn") && bytes.Contains(env, []byte("HOME="+h.Dir+"\x00")) && syscall.Kill(pid, syscall.SIGABRT) == nil {
			n++
		}
	}
	if n == 0 {
		t.Fatal("there is no process to abort")
	}
}

// TestSecretInLayer: a RUN that leaves a secret in the root filesystem fails, whatever it is wrapped in, and nothing of the layer is kept.
func TestSecretInLayer(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		h.Files(map[string]string{"key": canary + "\n", "short": "1234567"})
		try := func(run string, more ...string) harness.Result {
			dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + "\n\nRUN --mount=type=secret,id=key --mount=type=secret,id=short " + run + "\n"})
			return build(h, append(append([]string{"--secret", "id=key,src=key", "--secret", "id=short,src=short"}, more...), dir)...)
		}
		for _, tc := range []struct{ run, where string }{
			{"mkdir -p /a/b && cp /run/secrets/key /a/b/copy", "/a/b/copy"},
			{"sh -c 'head -c 262100 /dev/zero; cat /run/secrets/key; head -c 300000 /dev/zero' > /long", "/long"},
			{"echo user:$(cat /run/secrets/key) | base64 | tr -d '\\n' > /auth", "/auth"},
			{"ln -s $(cat /run/secrets/key) /link", "/link"},
			{"echo $(cat /run/secrets/key) | tr / _ > /same; cp /run/secrets/key /one; ln /one /two", "/one"},
		} {
			r := try(tc.run).Fails(t, 1, "Dockerfile:3", `secret "key" is in `+tc.where, "hint: ", "--allow-secret-in-layer")
			if found := showsCanary(t, "the log", []byte(r.Stderr)); found != nil {
				t.Error(found)
			}
			searchTree(t, h.Root)
		}
		try("cp /run/secrets/short /seven; rm -f /nothing").OK(t)
		try("cp /run/secrets/key /copy; rm /copy").OK(t)
		try("cp /run/secrets/key /meant", "--allow-secret-in-layer").OK(t)
		try("cp /run/secrets/key /meant").Fails(t, 1, "/meant") // not answered from the cache
	})
}

// TestSecretBuildArg: a build argument is no secret (T12). It is in the image, as in BuildKit, and what is named like one is warned of.
func TestSecretBuildArg(t *testing.T) {
	h := harness.NewHome(t, harness.Unprivileged(t))
	dir := h.Files(map[string]string{"Dockerfile": "FROM scratch\nARG API_TOKEN\nCOPY Dockerfile /\n"})
	r := build(h, "--build-arg", "API_TOKEN="+canary, "-t", "it", dir).OK(t)
	if !strings.Contains(r.Stderr, "SecretsUsedInArgOrEnv") || !strings.Contains(r.Stderr, "API_TOKEN") {
		t.Errorf("no warning: %s", r.Stderr)
	}
}
