package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/docker/cli/cli/config"
)

// TestEndpoint: Host comes before DOCKER_HOST, that before a context, and that before the default.
func TestEndpoint(t *testing.T) {
	dir := t.TempDir()
	old := config.Dir()
	config.SetDir(dir)
	t.Cleanup(func() { config.SetDir(old) })
	for _, name := range []string{"chosen", "named"} {
		sum := sha256.Sum256([]byte(name))
		at := filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]))
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		meta := `{"Name":"` + name + `","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///` + name + `.sock","SkipTLSVerify":false}}}`
		if err := os.WriteFile(filepath.Join(at, "meta.json"), []byte(meta), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ host, env, context, file, want string }{
		{want: "unix:///var/run/docker.sock"},
		{file: "chosen", want: "unix:///chosen.sock"},
		{file: "chosen", context: "default", want: "unix:///var/run/docker.sock"},
		{file: "chosen", context: "named", want: "unix:///named.sock"},
		{file: "chosen", env: "unix:///env.sock", want: "unix:///env.sock"},
		{file: "chosen", env: "unix:///env.sock", host: "unix:///host.sock", want: "unix:///host.sock"},
	} {
		t.Setenv("DOCKER_HOST", tt.env)
		t.Setenv("DOCKER_CONTEXT", tt.context)
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"currentContext":"`+tt.file+`"}`), 0o644); err != nil {
			t.Fatal(err)
		}
		b, err := New(core.DockerConfig{Host: tt.host})
		if err != nil || b.client.DaemonHost() != tt.want {
			t.Errorf("%+v: %v, %v", tt, b, err)
		}
	}
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("DOCKER_CONTEXT", "nowhere")
	if _, err := New(core.DockerConfig{}); err == nil {
		t.Error("a context that does not exist is no error")
	}
}
