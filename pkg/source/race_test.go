package source

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/cairn-build/cairn/test/attack"
	"github.com/cairn-build/cairn/test/torture"
)

// TestContextRace: somebody exchanges directories and a file of a build context for a link to the outside while a COPY reads it.
func TestContextRace(t *testing.T) {
	rounds := torture.Times(200, 2000)
	c := attack.NewCanary(t)
	dir := filepath.Join(c.Room, "context")
	if err := os.MkdirAll(filepath.Join(dir, "d/dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "d/x", "d/dir/x", "d/dir/passwd"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	x := attack.Exchange(t, c.Room, c.Outside)
	x.At(dir+"/d", dir+"/d/dir", dir+"/x")
	files, whole := 0, 0
	for range rounds {
		tree, err := OpenDir(t.Context(), dir, ContextOptions{})
		if err != nil {
			continue // the file .dockerignore is looked for in what is being exchanged
		}
		n, ok := readAll(t, tree, ".")
		if files += n; ok {
			whole++
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	}
	x.Stop()
	c.Check(t)
	if files == 0 {
		t.Error("no file was read")
	}
	torture.Figure(t, "T3", "%d build contexts read while a file and directories of them were exchanged for links to the outside (%d came through, %d files were read): nothing outside was",
		rounds, whole, files)
}

// readAll reads every file, as far as that is possible, and fails the test if one is from outside.
func readAll(t *testing.T, tree layer.Tree, dir string) (files int, whole bool) {
	entries, err := layertest.All(tree.ReadDir(dir))
	if err != nil {
		return 0, false
	}
	whole = true
	for _, e := range entries {
		if e.Type == layer.Dir {
			n, ok := readAll(t, tree, e.Path)
			files, whole = files+n, whole && ok
		}
		if e.Type != layer.File {
			continue
		}
		f, err := tree.Open(e.Path)
		if err != nil {
			whole = false
			continue
		}
		data, err := io.ReadAll(f)
		f.Close()
		files, whole = files+1, whole && err == nil
		if string(data) == attack.Secret {
			t.Fatalf("%s is from outside", e.Path)
		}
	}
	return files, whole
}
