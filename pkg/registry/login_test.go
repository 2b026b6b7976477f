package registry_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/registry"
)

func TestLoginHost(t *testing.T) {
	for arg, want := range map[string]string{
		"": "docker.io", "docker.io": "docker.io", "index.docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io",
		"registry.example": "registry.example", "registry.example:5000": "registry.example:5000", "https://registry.example/v2/": "registry.example",
		"https://registry.example/": "registry.example", "127.0.0.1:5000": "127.0.0.1:5000",
	} {
		if got, err := registry.LoginHost(arg); err != nil || got != want {
			t.Errorf("LoginHost(%q) = %q, %v; want %q", arg, got, err, want)
		}
	}
	for _, bad := range []string{"a b", "registry.example/team", "user@host", "http://", "\x1b[31m"} {
		if got, err := registry.LoginHost(bad); err == nil {
			t.Errorf("LoginHost(%q) = %q", bad, got)
		}
	}
}

// TestSaveAndRemoveLogin: the file keeps what it has, through a symlink too, and is refused where it is not understood.
func TestSaveAndRemoveLogin(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real.json"), filepath.Join(dir, "config.json")
	if err := os.WriteFile(real, []byte(`{"auths":{"old.example":{"auth":"YTpi"}},"proxies":{"x":1}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"registry.example", "docker.io"} {
		if inFile, err := registry.SaveLogin(ctx, link, host, secretUser, secretPassword); err != nil || !inFile {
			t.Errorf("%s: %v %v", host, inFile, err)
		}
	}
	fi, err := os.Lstat(link)
	if err != nil || fi.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the symlink is gone: %v %v", fi, err)
	}
	data, err := os.ReadFile(real)
	var kept struct {
		Auths   map[string]map[string]string
		Proxies map[string]int
	}
	if err != nil || json.Unmarshal(data, &kept) != nil || len(kept.Auths) != 3 || kept.Proxies["x"] != 1 ||
		kept.Auths["https://index.docker.io/v1/"]["auth"] == "" || kept.Auths["old.example"]["auth"] != "YTpi" {
		t.Errorf("%s %v", data, err)
	}
	for _, want := range []bool{true, false} {
		if found, err := registry.RemoveLogin(ctx, link, "docker.io"); err != nil || found != want {
			t.Errorf("RemoveLogin: %v %v, want %v", found, err, want)
		}
	}
	for _, bad := range []string{"{", "[]", "null", `{"auths":[]}`, `{"credsStore":"../../bin/sh"}`} {
		file := writeFile(t, bad)
		_, err := registry.SaveLogin(ctx, file, "registry.example", secretUser, secretPassword)
		if data, rerr := os.ReadFile(file); err == nil || rerr != nil || string(data) != bad || strings.Contains(err.Error(), secretPassword) {
			t.Errorf("%s: %v; the file is %q now", bad, err, data)
		}
	}
}
