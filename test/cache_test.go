package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
)

// twentySteps is a Dockerfile with many small RUN steps.
func twentySteps(base string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "FROM %s\n", base)
	for i := range 20 {
		fmt.Fprintf(&b, "RUN echo %d > /f%d\n", i, i)
	}
	return b.String()
}

// digestOf builds with a metadata file and returns the image's digest and what the build said.
func digestOf(t *testing.T, h *harness.Home, args ...string) (digest, log string) {
	t.Helper()
	r := build(h, append(args, "--metadata-file", "meta.json")...).OK(t)
	data, err := os.ReadFile(h.Path("meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), `"containerimage.digest"`)
	parts := strings.Split(rest, `"`)
	if len(parts) < 2 || !strings.HasPrefix(parts[1], "sha256:") {
		t.Fatalf("no digest in %s", data)
	}
	return parts[1], r.Stderr
}

func TestSecondBuildIsANoOp(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		files := map[string]string{
			"ctx/Dockerfile": twentySteps(base) + "COPY tree /tree\nRUN cat /tree/a /tree/b > /sum\n",
			"ctx/tree/a":     "a\n",
			"ctx/tree/b":     "b\n",
		}
		h.Files(files)
		first, log := digestOf(t, h, "-t", "localhost/steps", "ctx")
		if n := cached(log); n != 0 {
			t.Errorf("%d steps of a first build were cached:\n%s", n, log)
		}

		later := time.Now().Add(48 * time.Hour)
		for name := range files {
			if err := os.Chtimes(h.Path(name), later, later); err != nil {
				t.Fatal(err)
			}
		}
		second, log := digestOf(t, h, "-t", "localhost/steps", "ctx")
		noOp(t, "after touching the files", first, second, log)

		elsewhere := filepath.Join("some", "where", "else")
		if err := os.MkdirAll(h.Path(filepath.Dir(elsewhere)), 0o755); err != nil {
			t.Fatal(err)
		}
		h.Run("cp", "-r", "ctx", "copy")
		if err := os.Rename(h.Path("copy"), h.Path(elsewhere)); err != nil {
			t.Fatal(err)
		}
		third, log := digestOf(t, h, "-t", "localhost/steps", elsewhere)
		noOp(t, "from another folder", first, third, log)

		harness.WriteFiles(t, h.Work, map[string]string{"ctx/tree/b": "changed\n"})
		changed, log := digestOf(t, h, "-t", "localhost/steps", "ctx")
		if n := cached(log); changed == first || n != 20 {
			t.Errorf("after a change %d steps were cached:\n%s", n, log)
		}

		_, log = digestOf(t, h, "--no-cache", "-t", "localhost/steps", "ctx")
		if cached(log) > 0 {
			t.Errorf("with --no-cache:\n%s", log)
		}
	})
}

// cached counts the steps that plain progress shows as answered from the cache; a FROM is no step.
func cached(log string) (n int) {
	from := map[string]bool{}
	for _, line := range strings.Split(log, "\n") {
		id, rest, _ := strings.Cut(line, " ")
		if strings.Contains(rest, "] FROM ") {
			from[id] = true
		}
		if rest == "CACHED" && !from[id] {
			n++
		}
	}
	return n
}

func noOp(t *testing.T, when, first, now, log string) {
	t.Helper()
	if n := cached(log); n != 22 {
		t.Errorf("%s: %d of 22 steps were cached:\n%s", when, n, log)
	}
	if now != first {
		t.Errorf("%s: the image is %s, and was %s", when, now, first)
	}
}

// TestSharedStore has two builds at work in one store at the same time.
func TestSharedStore(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		h.Files(map[string]string{"a/Dockerfile": twentySteps(base), "b/Dockerfile": twentySteps(base) + "RUN echo last > /last\n"})
		ends := make(chan string)
		for _, name := range []string{"a", "b", "a"} {
			cmd := h.CairnCommand("build", "--root", h.Root, "--progress=plain", "-t", "localhost/"+name, name)
			go func() {
				out, err := cmd.CombinedOutput()
				if err != nil {
					ends <- fmt.Sprintf("%s: %v\n%s", name, err, out)
					return
				}
				ends <- ""
			}()
		}
		for range 3 {
			if e := <-ends; e != "" {
				t.Error(e)
			}
		}
		for _, name := range []string{"a", "b"} {
			out := h.Cairn("run", "--root", h.Root, "localhost/"+name, "cat", "/f0", "/f19").OK(t).Stdout
			if out != "0\n19\n" {
				t.Errorf("%s holds %q", name, out)
			}
		}
	})
}
