// Package arch holds the house to its plan: who may import whom (docs/architecture.md), and what is kept to one place.
package arch

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cairn-build/cairn/"

// edges are the rooms and the rooms that each may import. "a/..." is a and every package below it. What is not listed is not
// allowed, and a package that is in no room fails the test.
var edges = map[string][]string{
	"pkg/hint":       {},
	"pkg/suggest":    {"pkg/hint"},
	"pkg/dockerfile": {"pkg/hint", "pkg/suggest"},
	"pkg/secret":     {},
	"pkg/progress":   {},
	"pkg/userns":     {"pkg/hint"},
	"pkg/spill":      {},
	"pkg/layer":      {"pkg/spill"},
	"pkg/fakeroot":   {},
	"executor":       {"pkg/fakeroot"},
	"pkg/plan":       {"pkg/hint", "pkg/dockerfile", "pkg/suggest"},
	"pkg/store":      {"pkg/hint", "pkg/layer"},
	"pkg/copy":       {"pkg/hint", "pkg/spill", "pkg/layer", "pkg/plan", "pkg/suggest"},
	"pkg/registry":   {"pkg/hint", "pkg/layer", "pkg/store", "pkg/progress", "pkg/secret"},
	"pkg/cache":      {"pkg/registry", "pkg/spill", "pkg/layer", "pkg/store", "pkg/suggest"},
	// A build context can be a tar, which is read as ADD reads one: pkg/copy.
	"pkg/source":   {"pkg/hint", "pkg/copy", "pkg/spill", "pkg/registry", "pkg/layer", "pkg/store", "pkg/plan", "pkg/progress", "pkg/secret"},
	"pkg/image":    {"pkg/plan", "pkg/layer", "pkg/store"},
	"pkg/image/v1": {"pkg/image"},
	"pkg/export":   {"pkg/registry", "pkg/layer", "pkg/store", "pkg/image", "pkg/progress", "pkg/suggest"},
	"snapshot":     {"pkg/layer", "pkg/fakeroot"},
	"snapshot/...": {"pkg/hint", "snapshot", "pkg/layer", "pkg/store", "pkg/fakeroot"},
	// Several executors answer system calls: notify is how, identity what they say of users, fakeid what namespaces do not have.
	"executor/...": {"pkg/hint", "executor", "executor/process", "executor/sandbox", "executor/notify", "executor/identity", "executor/fakeid", "pkg/userns",
		"pkg/fakeroot"},
	"pkg/solve": {"pkg/hint", "pkg/plan", "pkg/cache", "pkg/source", "pkg/layer", "pkg/store", "pkg/secret", "pkg/progress", "pkg/copy",
		"pkg/dockerfile", "pkg/fakeroot", "snapshot", "executor"},
	"pkg/build": {"pkg/solve", "pkg/plan", "pkg/dockerfile", "pkg/cache", "pkg/source", "pkg/registry", "pkg/image", "pkg/export",
		"pkg/layer", "pkg/store", "pkg/secret", "pkg/progress", "pkg/copy", "snapshot", "executor"},
	// The choice of how RUN is carried out is the one place that names implementations.
	"pkg/ladder": {"pkg/hint", "pkg/userns", "pkg/layer", "pkg/store", "snapshot", "snapshot/...", "executor", "executor/..."},
	// The library: a worker for programs that import it, and what they speak to.
	"pkg/worker": {"executor", "pkg/userns"},
	"pkg/engine": {"pkg/worker", "pkg/build", "pkg/solve", "pkg/source", "pkg/registry", "pkg/export", "pkg/image", "pkg/layer", "pkg/store",
		"pkg/secret", "pkg/progress", "pkg/ladder", "snapshot", "executor"},
	"pkg/builder":           {"pkg/engine", "pkg/image", "pkg/layer", "pkg/source", "pkg/registry", "pkg/progress", "snapshot", "executor"},
	"pkg/containers/core":   {"pkg/hint"},
	"pkg/containers/native": {"pkg/hint", "pkg/containers/core", "pkg/engine", "pkg/image", "pkg/layer", "pkg/progress", "pkg/export", "executor"},
	"pkg/containers":        {"pkg/containers/core", "pkg/containers/native"},
	"pkg/containers/gc":     {"pkg/containers"},
	"pkg/containers/docker": {"pkg/containers/core"},
	// containerd builds nothing: the native backend does it for it.
	"pkg/containers/containerd": {"pkg/hint", "pkg/containers/core", "pkg/containers/native"},
	// The command puts the parts of a build together.
	"cmd/cairn": {"pkg/hint", "pkg/suggest", "pkg/build", "pkg/cache", "pkg/userns", "pkg/progress", "pkg/secret", "pkg/solve", "pkg/source", "pkg/registry", "pkg/export",
		"pkg/image", "pkg/plan", "pkg/dockerfile", "pkg/layer", "pkg/store", "pkg/ladder", "snapshot", "executor"},
}

// sole are libraries that few rooms speak to for all. Tar streams that are layers are read and written by pkg/layer alone; the others that
// import archive/tar handle archives that are not: ADD's, build contexts, and the tarballs that images travel in.
var sole = map[string][]string{
	"github.com/moby/moby/client":                          {"pkg/containers/docker"},
	"github.com/containerd/containerd/v2":                  {"pkg/containers/containerd"},
	"github.com/containerd/stargz-snapshotter":             {"pkg/layer"},
	"github.com/urfave/cli":                                {"cmd/cairn"},
	"github.com/moby/buildkit/frontend":                    {"pkg/dockerfile"},
	"github.com/opencontainers/runc":                       {"executor/runc"},
	"github.com/elastic/go-seccomp-bpf":                    {"executor/namespace"},
	"github.com/google/go-containerregistry/pkg/v1/remote": {"pkg/registry"},
	"github.com/google/go-containerregistry/pkg/registry":  {"pkg/registry"},
	"archive/tar": {"pkg/layer", "pkg/copy", "pkg/export", "pkg/source", "pkg/image", "pkg/builder", "pkg/containers"},
}

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath, Dir string
	Imports         []string
	GoFiles         []string
	CgoFiles        []string
}

func (p pkg) room() string { return strings.TrimPrefix(p.ImportPath, module) }

// packages lists the packages of the module as they are built for release.
func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-tags", "seccomp netgo osusergo", "-json=ImportPath,Dir,Imports,GoFiles,CgoFiles",
		module+"...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// allowed are the rooms that a package may import, and whether it is in a room at all.
func allowed(room string) (to []string, ok bool) {
	if to, ok = edges[room]; ok {
		return to, true
	}
	for pattern, to := range edges {
		if base, deep := strings.CutSuffix(pattern, "/..."); deep && (room == base || strings.HasPrefix(room, base+"/")) {
			return to, true
		}
	}
	return nil, false
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		to, ok := allowed(p.room())
		if !ok && !support(p.room()) {
			t.Errorf("%s is in no room: say in edges what it may import, and in docs/architecture.md why", p.room())
			continue
		}
		if support(p.room()) {
			continue // may look at everything
		}
		for _, imp := range p.Imports {
			target, inside := strings.CutPrefix(imp, module)
			if inside && support(target) {
				t.Errorf("%s imports %s, which is for tests", p.room(), target)
			}
			if inside && !listed(to, target) && !below(p.room(), target) {
				t.Errorf("%s imports %s, which is not one of %v", p.room(), target, to)
			}
		}
	}
}

// listed reports whether a room is in a list of edges.
func listed(rooms []string, room string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool {
		base, deep := strings.CutSuffix(r, "/...")
		return room == r || deep && below(base, room)
	})
}

// support reports whether a package is there for tests only: below test, or a suite that implementations are tested with (exectest).
func support(room string) bool {
	return room == "test" || strings.HasPrefix(room, "test/") || strings.HasSuffix(room, "test")
}

// below reports whether target is a package inside of room, which room may always use.
func below(room, target string) bool { return strings.HasPrefix(target, room+"/") }

func TestNoCycleOfRooms(t *testing.T) {
	t.Parallel()
	state := map[string]int{} // 1 on the path, 2 done
	var visit func(room string, path []string)
	visit = func(room string, path []string) {
		if state[room] == 1 {
			t.Fatalf("rooms in a circle: %v", append(path, room))
		}
		if state[room] == 2 {
			return
		}
		state[room] = 1
		to, _ := allowed(room)
		for _, next := range to {
			if listed([]string{room}, next) {
				continue // rooms within one
			}
			visit(next, append(path, room))
		}
		state[room] = 2
	}
	for room := range edges {
		visit(room, nil)
	}
}

func TestSoleImporters(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if support(p.room()) {
			continue
		}
		for _, imp := range p.Imports {
			for lib, rooms := range sole {
				if (imp == lib || strings.HasPrefix(imp, lib+"/")) && !slices.Contains(rooms, p.room()) {
					t.Errorf("%s imports %s, which is the business of %v", p.room(), imp, rooms)
				}
			}
		}
	}
}

// TestNothingGlobal looks for what makes a program depend on more than its arguments.
func TestNothingGlobal(t *testing.T) {
	t.Parallel()
	inits := 0
	for _, p := range packages(t) {
		if support(p.room()) {
			continue
		}
		for _, name := range append(p.GoFiles, p.CgoFiles...) {
			file := filepath.Join(p.Dir, name)
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			inits += initFunctions(t, p, f)
			// Programs that import the library and say nothing get the command's store: one file looks where that is.
			// And where a Docker daemon is, Docker's own variables say.
			if !strings.HasPrefix(p.room(), "cmd/") && p.room() != "pkg/userns" &&
				!slices.Contains([]string{"pkg/engine/defaults.go", "pkg/containers/docker/context.go"}, p.room()+"/"+name) {
				environmentUse(t, p.room()+"/"+name, f)
			}
		}
	}
	if inits > 1 {
		t.Errorf("%d init functions; the one in pkg/userns is enough", inits)
	}
}

func initFunctions(t *testing.T, p pkg, f *ast.File) (n int) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || fn.Name.Name != "init" {
			continue
		}
		n++
		if p.room() != "pkg/userns" {
			t.Errorf("%s has an init function", p.room())
		}
	}
	return n
}

// environmentUse finds the calls with which a package reads the environment, ends the program, or logs.
func environmentUse(t *testing.T, file string, f *ast.File) {
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok {
			switch call := x.Name + "." + sel.Sel.Name; call {
			case "os.Getenv", "os.LookupEnv", "os.Environ", "os.Exit", "log.Print", "log.Printf", "log.Println", "log.Fatal", "log.Fatalf",
				"log.Panic", "log.Panicf", "log.Default", "slog.Info", "slog.Warn", "slog.Error", "slog.Default":
				t.Errorf("%s uses %s", file, call)
			}
		}
		return true
	})
}

// TestPackageComments: a stranger opens a folder and is told what it is.
func TestPackageComments(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		found := len(p.GoFiles)+len(p.CgoFiles) == 0
		for _, name := range append(p.GoFiles, p.CgoFiles...) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			found = found || f.Doc != nil
		}
		if !found {
			t.Errorf("%s has no package comment", p.room())
		}
	}
}
