package language

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// text is a standard input with this in it.
func text(s string) func(*testing.T, *place) *os.File {
	return func(t *testing.T, p *place) *os.File {
		t.Helper()
		return input(t, p, []byte(p.fill(s)))
	}
}

// packed is a standard input with the context as a tar that a filter has compressed.
func packed(filter string) func(*testing.T, *place) *os.File {
	return func(t *testing.T, p *place) *os.File {
		t.Helper()
		var b bytes.Buffer
		cmd := exec.Command("sh", "-euc", `tar -C "$1" -cf - . | $2`, "sh", p.ctx, filter)
		cmd.Stdout = &b
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		return input(t, p, b.Bytes())
	}
}

func input(t *testing.T, p *place, data []byte) *os.File {
	t.Helper()
	name := filepath.Join(p.dir, "stdin")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var multiOnce sync.Mutex

// multi publishes an image for two platforms as {registry}/multi. It is made with cairn and checked by skopeo.
func multi(t *testing.T, p *place) {
	t.Helper()
	multiOnce.Lock()
	defer multiOnce.Unlock()
	name := p.registry.Name("multi:latest")
	if harness.Try(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+name).Code == 0 {
		return
	}
	file := filepath.Join(p.dir, "multi.Dockerfile")
	harness.WriteFiles(t, p.dir,
		map[string]string{"multi.Dockerfile": "FROM scratch\nARG TARGETARCH\nLABEL for=$TARGETARCH\nCOPY <<E /arch\n" +
			"$TARGETARCH\nE\n"})
	p.home.Cairn("build", "--root", p.home.Root, "-f", file, "--platform", "linux/amd64,linux/arm64", "--push", "-t", name,
		p.ctx).OK(t)
	for _, arch := range []string{"amd64", "arm64"} {
		harness.Run(t, "skopeo", "copy", "-q", "--override-arch", arch, "--src-tls-verify=false", "docker://"+name,
			"dir:"+filepath.Join(p.dir, arch))
	}
}

func sha256Sum(s string) [32]byte { return sha256.Sum256([]byte(s)) }
