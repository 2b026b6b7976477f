package harness

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is an image's config as skopeo reads it; source is what skopeo calls it: "docker://…", "oci-archive:…".
func (r *Registry) Config(t testing.TB, source string) ocispec.Image {
	t.Helper()
	args := append([]string{"skopeo", "inspect", "--config"}, r.Skopeo("")...)
	var config ocispec.Image
	if err := json.Unmarshal([]byte(Run(t, append(args, source)...)), &config); err != nil {
		t.Fatal(err)
	}
	return config
}

// Manifest is an image's manifest as skopeo reads it.
func (r *Registry) Manifest(t testing.TB, source string) ocispec.Manifest {
	t.Helper()
	args := append([]string{"skopeo", "inspect", "--raw"}, r.Skopeo("")...)
	var m ocispec.Manifest
	if err := json.Unmarshal([]byte(Run(t, append(args, source)...)), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// Layout is an image that skopeo has copied into an OCI layout, checking every digest, and umoci has unpacked.
type Layout struct {
	Dir string
	// Rootfs is the unpacked root filesystem.
	Rootfs string
	t      testing.TB
}

// Unpack has skopeo copy an image and umoci unpack it: both refuse what is not right.
func (r *Registry) Unpack(t testing.TB, source string) *Layout {
	t.Helper()
	dir, err := os.MkdirTemp("", "cairn-judge-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	layout, bundle := filepath.Join(dir, "layout"), filepath.Join(dir, "bundle")
	args := []string{"skopeo", "copy", "-q"}
	if strings.HasPrefix(source, "docker://") {
		args = append(args, r.Skopeo("src")...)
	}
	Run(t, append(args, source, "oci:"+layout+":image")...)
	args = []string{"umoci", "unpack", "--image", layout + ":image"}
	if os.Getuid() != 0 {
		args = append(args, "--rootless")
	}
	Run(t, append(args, bundle)...)
	return &Layout{Dir: layout, Rootfs: filepath.Join(bundle, "rootfs"), t: t}
}

// Read returns a file of the unpacked root filesystem.
func (l *Layout) Read(name string) string {
	l.t.Helper()
	root, err := os.OpenRoot(l.Rootfs)
	if err != nil {
		l.t.Fatal(err)
	}
	defer root.Close()
	data, err := root.ReadFile(strings.TrimPrefix(name, "/"))
	if err != nil {
		l.t.Fatal(err)
	}
	return string(data)
}

// Has reports whether the unpacked root filesystem has a file.
func (l *Layout) Has(name string) bool {
	_, err := os.Lstat(filepath.Join(l.Rootfs, name))
	return err == nil
}

// Layers lists the entries of every layer: name → content ("" for what is not a regular file).
func (l *Layout) Layers() []map[string]string {
	l.t.Helper()
	var index ocispec.Index
	l.decode("index.json", &index)
	var m ocispec.Manifest
	l.decode(blob(index.Manifests[0].Digest.Encoded()), &m)
	var out []map[string]string
	for _, d := range m.Layers {
		out = append(out, l.entries(blob(d.Digest.Encoded())))
	}
	return out
}

func blob(hex string) string { return "blobs/sha256/" + hex }

func (l *Layout) decode(name string, v any) {
	l.t.Helper()
	data, err := os.ReadFile(filepath.Join(l.Dir, name))
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *Layout) entries(name string) map[string]string {
	l.t.Helper()
	f, err := os.Open(filepath.Join(l.Dir, name))
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		l.t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			l.t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			l.t.Fatal(err)
		}
		out[strings.TrimSuffix(h.Name, "/")] = string(data)
	}
}
