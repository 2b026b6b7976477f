package test

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/cairn-build/cairn/test/torture"
)

// TestKill ends builds with SIGKILL at random moments. The kernel must take away every mount and process, and the next build must
// be right: the same image that an undisturbed store gives.
func TestKill(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	const dockerfile = "\nRUN echo a > /a\nCOPY file /file\nRUN sleep 0.2; cp /bin/busybox /copy; (sleep 600 &) ; echo b > /b\nRUN cat /a /b /file > /sum; rm /copy\n"
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		h.Env = append(h.Env, "SOURCE_DATE_EPOCH=1700000000")
		dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + dockerfile, "file": "content\n"})
		undisturbed := h.Root
		h.Root = h.Path("reference")
		start := time.Now()
		output := []string{"-t", "localhost/killed", "-o", "type=image,rewrite-timestamp=true", dir} // the same bytes every time
		want, _ := digestOf(t, h, output...)
		whole := time.Since(start)
		h.CheckClean()
		h.Root = undisturbed

		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d, a whole build takes %v", seed, whole)
		random := rand.New(rand.NewPCG(seed, 0))
		kills := torture.Times(10, 30)
		for i := range kills {
			after := time.Duration(random.Int64N(int64(whole)))
			cmd := h.CairnCommand("build", "--root", h.Root, "-t", "localhost/killed", "--no-cache", dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(after, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
			_ = cmd.Wait()
			timer.Stop()
			harness.WaitFor(t, 5*time.Second, "no mount and no process is left", func() bool { return len(h.Processes()) == 0 })
			if i%3 == 2 {
				got, _ := digestOf(t, h, output...)
				if got != want {
					t.Errorf("after the kill at %v the build gives %s, not %s", after, got, want)
				}
			}
		}
		got, log := digestOf(t, h, append(output, "--no-cache")...)
		if got != want {
			t.Errorf("the build after the kills gives %s, not %s:\n%s", got, want, log)
		}
		if out := h.Cairn("run", "--root", h.Root, "localhost/killed", "cat", "/sum").OK(t).Stdout; out != "a\nb\ncontent\n" {
			t.Errorf("the image holds %q", out)
		}
		if r := h.Cairn("system", "check", "--read-data", "--root", h.Root).OK(t); r.Stdout != "" {
			t.Error(r.Stdout)
		}
		torture.Figure(t, "T4", "%d builds killed with SIGKILL at random moments, as %s: no mount and no process was left, the store checked clean, and the rebuilt image had "+
			"the digest of an undisturbed one", kills, u.Name)
	})
}
