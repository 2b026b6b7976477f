package harness_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/opencontainers/go-digest"
)

// TestBases: what the tests build on is what it should be, before cairn has had a hand in it.
func TestBases(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	busybox := registry.Unpack(t, "docker://"+registry.Busybox(t))
	if !busybox.Has("bin/sh") || !strings.Contains(busybox.Read("etc/passwd"), "ann") || len(busybox.Layers()) != 1 {
		t.Error("the busybox base is incomplete")
	}
	debian := registry.Debian(t)
	if config := registry.Config(t, "docker://"+debian); config.OS != "linux" || len(config.Config.Env) != 1 {
		t.Errorf("the Debian base's config is %+v", config)
	}
	layout := registry.Unpack(t, "docker://"+debian)
	if !layout.Has("usr/bin/apt-get") || !layout.Has("etc/apt") {
		t.Error("the Debian base is incomplete")
	}
}

// TestRegistries: a registry with authentication refuses, one with TLS has a certificate that its authority vouches for.
func TestRegistries(t *testing.T) {
	base := harness.StartRegistry(t, harness.RegistryOptions{})
	source := "docker://" + base.Busybox(t)
	for _, o := range []harness.RegistryOptions{{Auth: true}, {TLS: true, Auth: true}} {
		r := harness.StartRegistry(t, o)
		args := []string{"skopeo", "copy", "-q", "--src-tls-verify=false"}
		refused := append(append([]string{}, args...), "--dest-tls-verify=false", source, "docker://"+r.Name("x:v1"))
		if harness.Try(t, refused...).Code == 0 {
			t.Error("the registry takes a push without credentials")
		}
		harness.Run(t, append(append(args, r.Skopeo("dest")...), source, "docker://"+r.Name("x:v1"))...)
	}
}

func TestCounter(t *testing.T) {
	r := harness.StartRegistry(t, harness.RegistryOptions{})
	c := r.Count(t)
	harness.Run(t, "skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+r.Busybox(t), "docker://"+c.Addr+"/copy:v1")
	// skopeo remembers what was pushed to this address in other runs, and may mount the layer instead of sending it.
	upload(t, "http://"+c.Addr+"/v2/copy/blobs/uploads/", make([]byte, 100_000))
	var sent int64
	manifests := 0
	for _, req := range c.Take() {
		sent += req.Sent
		if req.Method == "PUT" && strings.HasSuffix(req.Path, "/manifests/v1") {
			manifests++
		}
	}
	if manifests != 1 || sent < 100_000 {
		t.Errorf("%d manifests and %d bytes were counted", manifests, sent)
	}
	if len(c.Take()) != 0 {
		t.Error("requests are counted twice")
	}
}

// upload pushes a blob as a client of a registry does.
func upload(t *testing.T, url string, data []byte) {
	t.Helper()
	begun, err := http.Post(url, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	begun.Body.Close()
	to := begun.Header.Get("Location") + "&digest=" + digest.FromBytes(data).String()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, to, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	done, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	done.Body.Close()
	if done.StatusCode != http.StatusCreated {
		t.Fatalf("uploading: %s", done.Status)
	}
}
