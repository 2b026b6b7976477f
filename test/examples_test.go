package test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
	"go.yaml.in/yaml/v3"
)

// TestExamplesOfCI: the examples are YAML without a key twice, and every flag in them is one of cairn's.
func TestExamplesOfCI(t *testing.T) {
	dir := filepath.Join(harness.Module(t), "examples", "ci")
	files, err := filepath.Glob(filepath.Join(dir, "*.y*ml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%q, %v", files, err)
	}
	help := map[string]string{}
	h := harness.NewHome(t, harness.Unprivileged(t))
	for _, command := range []string{"build", "login", "doctor"} {
		help[command] = h.Cairn(command, "--help").OK(t).Stdout
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		uses := 0
		for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
			var doc map[string]any
			if err := d.Decode(&doc); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", filepath.Base(file), err)
			}
			for _, line := range commands(doc) {
				uses++
				checkFlags(t, filepath.Base(file), line, help)
			}
		}
		if uses == 0 {
			t.Errorf("%s does not use cairn", filepath.Base(file))
		}
		if !strings.Contains(string(b), "Where it lands") {
			t.Errorf("%s does not say where it lands", filepath.Base(file))
		}
	}
}

// commands finds the command lines of cairn in a document: lines of scripts, and lists of arguments that begin with a command.
func commands(v any) (out [][]string) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, commands(v[k])...)
		}
	case []any:
		var words []string
		for _, item := range v {
			if s, ok := item.(string); ok && !strings.Contains(s, " ") {
				words = append(words, s)
			}
			out = append(out, commands(item)...)
		}
		if len(words) > 1 && words[0] == "build" {
			out = append(out, words)
		}
	case string:
		for line := range strings.Lines(v) {
			if _, after, ok := strings.Cut(line, "cairn "); ok && (strings.HasPrefix(line, "cairn ") || strings.Contains(line, "| cairn ")) {
				out = append(out, strings.Fields(after))
			}
		}
	}
	return out
}

func checkFlags(t *testing.T, file string, words []string, help map[string]string) {
	text, ok := help[words[0]]
	if !ok {
		t.Errorf("%s: cairn has no command %q", file, words[0])
	}
	for _, w := range words[1:] {
		name, _, _ := strings.Cut(w, "=")
		if strings.HasPrefix(name, "--") && !strings.Contains(text, " "+name+" ") && !strings.Contains(text, " "+name+"\n") {
			t.Errorf("%s: cairn %s has no flag %s", file, words[0], name)
		}
	}
}

// TestImageOfCairn is `make image`: cairn builds its own image, which has the certificates of the base, and the program in it runs.
func TestImageOfCairn(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	program, err := os.ReadFile(harness.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(harness.Module(t), "examples", "ci", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		dir := h.Files(map[string]string{
			"Dockerfile": "FROM " + base + "\nCOPY ca.crt /etc/ssl/certs/ca-certificates.crt\n", "ca.crt": "a certificate\n",
			"image/Dockerfile": string(text), "image/bin/cairn:0755": string(program),
		})
		build(h, "-t", "localhost/certified", dir).OK(t)
		build(h, "-f", h.Path("image/Dockerfile"), "-t", "localhost/cairn", "--build-arg", "BASE=localhost/certified", h.Path("image/bin")).OK(t)
		want := h.Cairn("version").OK(t).Stdout
		if got := h.Cairn("run", "--root", h.Root, "--rm", "localhost/cairn", "version").OK(t).Stdout; got != want || got == "" {
			t.Errorf("cairn in its image says %q, want %q", got, want)
		}
		build(h, "-o", "type=local,dest="+h.Path("files"), "-f", h.Path("look"), h.Files(map[string]string{"look": "FROM localhost/cairn\n"})).OK(t)
		if got, err := os.ReadFile(h.Path("files/etc/ssl/certs/ca-certificates.crt")); err != nil || string(got) != "a certificate\n" {
			t.Errorf("certificates: %q, %v", got, err)
		}
	})
}
