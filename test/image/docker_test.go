package image

import (
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// TestDocker: a real Docker takes what cairn saves, cairn takes what it saves, and both print the same of the same images.
func TestDocker(t *testing.T) {
	docker := harness.StartDocker(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	one := build(t, h, "one", "-t", "one:v1", "-t", "one:v2")
	build(t, h, "two", "-t", "two")
	archive := h.Path("cairn.tar")
	cairn(t, h, "save", "-o", archive, "one", "two")
	loaded := docker.Run("load", "-i", archive)
	for _, want := range []string{"Loaded image: one:v1", "Loaded image: one:v2", "Loaded image: two:latest"} {
		if !strings.Contains(loaded, want) {
			t.Errorf("docker load without %q:\n%s", want, loaded)
		}
	}
	if got := docker.Run("inspect", "-f", "{{.Id}}", "one:v2"); strings.TrimSpace(got) != one {
		t.Errorf("docker's ID %s, cairn's %s", got, one)
	}
	// Docker's classic builder makes images with parents.
	dir := h.Files(map[string]string{"Dockerfile": "FROM scratch\nCOPY file /a\nENV X=y\nLABEL \"q\"='r'\nCOPY file /b\n", "file": "x"})
	t.Setenv("DOCKER_BUILDKIT", "0")
	docker.Run("build", "-q", "-t", "classic", dir)
	var ids []string
	for _, id := range strings.Fields(docker.Run("history", "-q", "--no-trunc", "classic")) {
		if id != "<missing>" {
			ids = append(ids, id)
		}
	}
	if len(ids) != 4 {
		t.Fatalf("images behind the classic one: %v", ids)
	}
	save := h.Path("docker.tar")
	docker.Run(append([]string{"save", "-o", save, "classic", "one:v1"}, ids[1:]...)...)
	h.Own()
	cairn(t, h, "rmi", "one:v1", "one:v2")
	out := cairn(t, h, "load", "-i", save)
	if !strings.Contains(out, "Loaded image: classic:latest\n") || !strings.Contains(out, "Loaded image: one:v1\n") || !strings.Contains(out, "Loaded image ID: "+ids[1]) {
		t.Errorf("cairn load:\n%s", out)
	}
	for _, c := range [][]string{
		{"history", "--no-trunc", "--format", "{{.ID}} {{.CreatedAt}} {{.CreatedBy}} {{.Comment}}", "classic"},
		{"history", "--format", "table {{.ID}}\t{{.CreatedBy}}\t{{.Size}}", "classic"},
		{"history", "-q", "one:v1"},
		{"inspect", "-f", "{{.Id}} {{.RepoTags}} {{.Architecture}} {{.Os}} {{json .RootFS}} {{.Config.Env}} {{.Config.Labels}} {{.Parent}}", "classic"},
		{"inspect", "-f", "{{json .RootFS.Layers}}", ids[2]},
		{"images", "--no-trunc", "--format", "{{.ID}} {{.Repository}} {{.Tag}} {{.CreatedAt}}", "classic"},
		{"images", "--format", "table {{.Repository}}\t{{.Tag}}\t{{.ID}}", "one:v1"},
	} {
		if ours, theirs := cairn(t, h, c...), docker.Run(c...); ours != theirs {
			t.Errorf("%s\ncairn  %q\ndocker %q", strings.Join(c, " "), ours, theirs)
		}
	}
	// The images that it was made from go with it.
	if gone := cairn(t, h, "rmi", "classic"); strings.Count(gone, "Deleted: ") != 4 {
		t.Errorf("rmi:\n%s", gone)
	}
}
