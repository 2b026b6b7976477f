package test

import (
	"fmt"
	"os"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// TestBoundedCache fills the build cache with layers of 3 MB of noise, and bounds it by hand and by itself.
func TestBoundedCache(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	noise := func(n int) string {
		dir := fmt.Sprint("ctx", n)
		h.Files(map[string]string{dir + "/Dockerfile": fmt.Sprintf("FROM %s\nRUN head -c 3000000 /dev/urandom >/noise%d\n", base, n)})
		return dir
	}
	steps := func(dir string) (hits int) {
		t.Helper()
		_, log := digestOf(t, h, "-o", "type=oci,dest=out.tar", dir)
		return cached(log)
	}
	for i := range 6 {
		if steps(noise(i)) != 0 {
			t.Fatal("a step that was never carried out is cached")
		}
	}
	if steps("ctx0") != 1 {
		t.Fatal("a step that was carried out is not cached")
	}
	prune := func(args ...string) harness.Result {
		return h.Cairn(append([]string{"system", "prune", "--root", h.Root, "--force"}, args...)...)
	}
	prune("--max-used-space", "some").Fails(t, 2, "max-used-space", "hint:")
	prune("--keep-duration", "-1h").Fails(t, 2, "keep-duration")
	prune("--max-used-space", "0", "--keep-duration", "1h").OK(t)
	if steps("ctx5") != 1 {
		t.Error("a step of this hour is gone in spite of --keep-duration")
	}
	steps("ctx0") // used last
	prune("--max-used-space", "10MB").OK(t)
	if steps("ctx0") != 1 {
		t.Error("the step that was used last is gone")
	}
	if steps("ctx1") != 0 {
		t.Error("the step that was not used for longest is still there")
	}
	// By itself, and to nothing.
	h.Env = append(h.Env, "CAIRN_MAX_USED_SPACE=1")
	steps("ctx0")
	if steps("ctx0") != 0 {
		t.Error("the build cache is still there after a build that keeps it to nothing")
	}
	if _, err := os.Stat(h.Path("out.tar")); err != nil {
		t.Error(err)
	}
	h.Env = append(h.Env, "CAIRN_MAX_USED_SPACE=much")
	build(h, "ctx0").Fails(t, 2, "CAIRN_MAX_USED_SPACE", "hint:")
}
