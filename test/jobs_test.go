package test

import (
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// TestJobsMakeNoDifference builds stages that need each other, and some that do not, one step at a time and eight at once, each in a store of its
// own: the image is the same to the byte.
func TestJobsMakeNoDifference(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	dockerfile := "FROM " + base + " AS a\nRUN seq 1 20000 >/a\nRUN ln /a /a2 && mkfifo /fifo\n" +
		"FROM " + base + " AS b\nCOPY tree /tree\nRUN cat /tree/* >/b && rm /tree/one\n" +
		"FROM " + base + " AS c\nWORKDIR /made/by/workdir\nCOPY --from=a /a /a2 ./\n" +
		"FROM b\nCOPY --from=a /a /from-a\nCOPY --from=c /made /made\nCOPY --link tree /linked\nRUN cat /from-a /b >/sum && mkdir -p /d/e\n"
	digest := func(args ...string) string {
		t.Helper()
		h := harness.NewHome(t, harness.Unprivileged(t))
		h.Files(map[string]string{"ctx/Dockerfile": dockerfile, "ctx/tree/one": "1\n", "ctx/tree/two": "2\n", "ctx/tree/.three": "3\n"})
		h.Env = append(h.Env, "SOURCE_DATE_EPOCH=1700000000")
		d, log := digestOf(t, h, append(args, "-o", "type=oci,dest=out.tar,rewrite-timestamp=true", "ctx")...)
		if n := cached(log); n != 0 {
			t.Errorf("%d steps were cached:\n%s", n, log)
		}
		return d
	}
	one := digest("--jobs", "1")
	if eight := digest("--jobs", "8"); eight != one {
		t.Errorf("the image is %s with --jobs 8, %s with --jobs 1", eight, one)
	}
	if all := digest(); all != one {
		t.Errorf("the image is %s without --jobs, %s with --jobs 1", all, one)
	}
}
