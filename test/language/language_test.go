// Package language holds the tests of the Dockerfile language, end to end: what is written in a Dockerfile, and what the image is then.
//
// Every table is about one instruction or one part of the language, and the names of its rows are its features: the test of
// RUN --mount=type=cache with an id is TestLanguage/RUN_mount/cache_id. docs/dockerfile.md lists them, and TestDocument holds the two
// together.
package language

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// table is the rows about one part of the language.
type table struct {
	name string
	rows []row
}

// row is one feature: a Dockerfile with its context, and what must come of it.
type row struct {
	// name is the feature's.
	name string
	// file is the Dockerfile. In it, in files and in args, {base} is the name of a small base image, {registry} the address of the registry it
	// is in, {http} and {git} those of servers, {dir} a directory for the row alone, {ctx} the context in it.
	file string
	// files are the context's, as harness.WriteFiles writes them.
	files map[string]string
	// setup does to the row's directory what cannot be written as text.
	setup func(t *testing.T, p *place)
	// args come after `cairn build`; the context is added unless the last of them is one ("-", a URL, a directory).
	args []string
	// context replaces the context's directory on the command line.
	context string
	// stdin is standard input.
	stdin func(t *testing.T, p *place) *os.File
	// env is added to the environment.
	env []string
	// fails are texts of the error: with any, the build must fail, and no check is made.
	fails []string
	// usage says that it is the command line that is wrong, which has an exit code of its own.
	usage bool
	// either lets the build fail or succeed: what counts is what always looks at.
	either bool
	// always checks what became of this machine, whether the build failed or not.
	always func(t *testing.T, p *place)
	// shows are texts that the build's progress must have, hides those it must not have.
	shows, hides []string
	// want are the checks of the image, those of the last platform where there are several.
	want []check
	// after checks what else became of the build.
	after func(t *testing.T, p *place, ims []*image)
}

// tables are all of them, in the order of the documentation.
func tables() []table {
	return slices.Concat(
		[]table{
			{"FROM", fromRows()}, {"RUN", runRows()}, {"CMD", cmdRows()}, {"ENTRYPOINT", entrypointRows()},
			{"LABEL", labelRows()}, {"ENV", envRows()}, {"ARG", argRows()}, {"ADD", addRows()}, {"COPY", copyRows()},
			{"EXPOSE", exposeRows()}, {"VOLUME", volumeRows()}, {"USER", userRows()}, {"WORKDIR", workdirRows()},
			{"ONBUILD", onbuildRows()}, {"STOPSIGNAL", stopsignalRows()}, {"SHELL", shellRows()}, {"MAINTAINER", maintainerRows()},
			{"HEALTHCHECK", healthcheckRows()},
		},
		syntaxTables(), runFlagTables(), copyFlagTables(), gitTables(), stageTables(), ignoreTables(), hostileTables(),
	)
}

// world is what all rows share.
type world struct {
	home     *harness.Home
	registry *harness.Registry
	vars     map[string]string
}

// place is where one row is built.
type place struct {
	*world
	t *testing.T
	// dir is the row's directory; ctx the context in it; out the archive the image is written to.
	dir, ctx, out string
	result        harness.Result
}

// fill puts in what the world has for the names in braces.
func (p *place) fill(text string) string {
	for k, v := range p.vars {
		text = strings.ReplaceAll(text, "{"+k+"}", v)
	}
	return strings.NewReplacer("{dir}", p.dir, "{ctx}", p.ctx).Replace(text)
}

// TestLanguage builds every row of every table.
func TestLanguage(t *testing.T) {
	w := newWorld(t)
	for _, tb := range tables() {
		t.Run(tb.name, func(t *testing.T) {
			for _, r := range tb.rows {
				t.Run(r.name, func(t *testing.T) { w.run(t, r) })
			}
		})
	}
}

// newWorld starts the servers, publishes the base and makes the user's home with the store.
func newWorld(t *testing.T) *world {
	t.Helper()
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	w := &world{home: harness.NewHome(t, harness.User{Name: "self", UID: os.Getuid(), GID: os.Getgid()}), registry: registry}
	w.vars = map[string]string{"base": registry.Busybox(t), "registry": registry.Addr}
	maps.Copy(w.vars, startServers(t))
	ref := append(append([]string{"skopeo", "inspect", "--format", "{{.Digest}}"}, registry.Skopeo("")...),
		"docker://"+w.vars["base"])
	w.vars["digest"] = strings.TrimSpace(harness.Run(t, ref...))
	return w
}

func (w *world) run(t *testing.T, r row) {
	t.Parallel()
	p := w.place(t)
	files := map[string]string{}
	for name, text := range r.files {
		files[name] = p.fill(text)
	}
	harness.WriteFiles(t, p.ctx, files)
	if r.setup != nil {
		r.setup(t, p)
	}
	if r.file != "" {
		harness.WriteFiles(t, p.dir, map[string]string{"Dockerfile": p.fill(r.file)})
	}
	p.build(r)
	if strings.Contains(p.result.Stderr, "this is a bug") {
		t.Errorf("a panic: %v", p.result)
	}
	if r.always != nil {
		r.always(t, p)
	}
	if len(r.fails) > 0 {
		code := 1
		if r.usage {
			code = 2
		}
		p.result.Fails(t, code, r.fails...)
	}
	if len(r.fails) > 0 || r.either {
		return
	}
	p.result.OK(t)
	ims := readArchive(t, p.out)
	for _, text := range r.shows {
		if !strings.Contains(p.result.Stderr, p.fill(text)) {
			t.Errorf("nothing shows %q:\n%s", text, p.result.Stderr)
		}
	}
	for _, text := range r.hides {
		if strings.Contains(p.result.Stderr, text) {
			t.Errorf("%q is shown:\n%s", text, p.result.Stderr)
		}
	}
	for _, c := range r.want {
		c(t, ims[len(ims)-1])
	}
	if r.after != nil {
		r.after(t, p, ims)
	}
	if t.Failed() {
		t.Logf("%v", p.result)
	}
}

// place makes a row's directory.
func (w *world) place(t *testing.T) *place {
	t.Helper()
	dir, err := os.MkdirTemp(w.home.Work, "row-")
	if err != nil {
		t.Fatal(err)
	}
	p := &place{world: w, t: t, dir: dir, ctx: filepath.Join(dir, "ctx"), out: filepath.Join(dir, "out.tar")}
	if err := os.Mkdir(p.ctx, 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// build runs the row's command line.
func (p *place) build(r row) {
	args := []string{"build", "--root", p.home.Root, "--progress=plain", "--output", "type=oci,dest=" + p.out}
	if !slices.Contains(r.args, "-f") && r.file != "" {
		args = append(args, "-f", filepath.Join(p.dir, "Dockerfile"))
	}
	for _, a := range r.args {
		args = append(args, p.fill(a))
	}
	context := p.ctx
	if r.context != "" {
		context = p.fill(r.context)
	}
	cmd := p.home.CairnCommand(append(args, context)...)
	cmd.Dir = p.dir
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"))
	for _, e := range r.env {
		cmd.Env = append(cmd.Env, p.fill(e))
	}
	if r.stdin != nil {
		f := r.stdin(p.t, p)
		defer f.Close()
		cmd.Stdin = f
	}
	p.result = harness.Execute(p.t, cmd)
}

// rebuild builds the same once more, with other arguments, and returns the images.
func (p *place) rebuild(r row) []*image {
	p.t.Helper()
	p.build(r)
	p.result.OK(p.t)
	return readArchive(p.t, p.out)
}

// write changes a file of the context.
func (p *place) write(name, text string) {
	p.t.Helper()
	harness.WriteFiles(p.t, p.ctx, map[string]string{name: text})
}

// link makes a symlink in the context.
func link(target, name string) func(*testing.T, *place) {
	return func(t *testing.T, p *place) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(p.ctx, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(p.fill(target), filepath.Join(p.ctx, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// script does to the context what a shell script says.
func script(text string) func(*testing.T, *place) {
	return func(t *testing.T, p *place) {
		t.Helper()
		harness.Run(t, "sh", "-euc", fmt.Sprintf("cd %s; dir=%s; %s", p.ctx, p.dir, p.fill(text)))
	}
}

// TestDocument compares the table of docs/dockerfile.md with the tests: what it names must be there, and what is there must be named.
func TestDocument(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "dockerfile.md"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, tb := range slices.Concat(tables(), []table{checkTable()}) {
		for _, r := range tb.rows {
			name := tb.name + "/" + r.name
			if have[name] {
				t.Errorf("two tests are called %q", name)
			}
			have[name] = true
		}
	}
	named := map[string]bool{}
	var names []string
	for _, tb := range tables() {
		names = append(names, regexp.QuoteMeta(tb.name))
	}
	reference := regexp.MustCompile("`(checks|" + strings.Join(names, "|") + ")/([^`]+)`")
	for _, m := range reference.FindAllStringSubmatch(string(data), -1) {
		// "TABLE/a, b" names two, "TABLE/C5 *" all that begin so.
		for _, n := range strings.Split(m[2], ", ") {
			name, found := m[1]+"/"+n, false
			prefix, all := strings.CutSuffix(name, "*")
			for h := range have {
				if h == name || all && strings.HasPrefix(h, prefix) {
					named[h], found = true, true
				}
			}
			if !found {
				t.Errorf("docs/dockerfile.md names the test %q, which is not there", name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if !named[name] {
			t.Errorf("docs/dockerfile.md does not name the test %q", name)
		}
	}
}
