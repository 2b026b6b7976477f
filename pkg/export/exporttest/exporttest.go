// Package exporttest holds what the tests of exporting share: an image with every kind of file in a real store, a check of
// what an OCI layout holds, and the suite that every type of output must pass.
package exporttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Built is when the layers of the fixture were made, in seconds.
const Built = 1700000000

// Fixture is an image of three layers: the base image's one and two of a build.
type Fixture struct {
	Store   *store.Store
	Request export.Request
	Deps    export.Deps

	indexes  map[digest.Digest]*layer.Index
	contents map[digest.Digest]map[string]string
}

// file is one entry of a layer of the fixture, with its content.
type file struct {
	layer.Entry
	content string
}

func at(sec int64) time.Time { return time.Unix(sec, 0).UTC() }

func dir(path string, mode int64) file {
	return file{Entry: layer.Entry{Path: path, Type: layer.Dir, Mode: mode, ModTime: at(1000)}}
}

func reg(path string, mode int64, content string) file {
	return file{layer.Entry{Path: path, Type: layer.File, Mode: mode, Size: int64(len(content)), ModTime: at(2000)}, content}
}

func other(path string, t layer.Type, linkname string) file {
	return file{Entry: layer.Entry{Path: path, Type: t, Mode: 0o777, Linkname: linkname, ModTime: at(3000)}}
}

// baseFiles has what a base image has: a directory that the build makes opaque, files it removes and replaces, a hard link,
// symlinks.
func baseFiles() []file {
	owned := reg("home/user/file", 0o640, "mine")
	owned.UID, owned.GID = 1000, 100
	return []file{
		dir("bin", 0o755), reg("bin/busy", 0o4755, "#!/bin/true\n"), other("bin/sh", layer.Hardlink, "bin/busy"),
		dir("etc", 0o755), reg("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\n"), reg("etc/removed", 0o600, "gone"),
		dir("home", 0o755), dir("home/user", 0o700), owned,
		dir("hidden", 0o755), reg("hidden/below", 0o644, "hidden"),
		other("lib", layer.Symlink, "usr/lib"), other("outside", layer.Symlink, "/etc/../../../../etc/hostname"),
		dir("usr", 0o755), dir("usr/lib", 0o555), reg("usr/lib/lib.so", 0o444, strings.Repeat("library ", 4096)),
	}
}

func builtFiles() [][]file {
	attr := reg("app/attr", 0o755, "with an attribute")
	attr.Xattrs = map[string]string{"user.note": "kept\x00raw"}
	fifo := other("app/fifo", layer.Fifo, "")
	fifo.Mode = 0o600
	hidden := dir("hidden", 0o750)
	hidden.Opaque = true
	late := reg("late", 0o644, "made later than the epoch")
	late.ModTime = at(Built + 500)
	return [][]file{
		{dir("app", 0o755), attr, fifo, reg("app/héllo wörld", 0o644, "name"), dir("etc", 0o755), other("etc/removed", layer.Whiteout, ""),
			hidden, reg("hidden/new", 0o644, "new")},
		{late},
	}
}

// New makes the fixture in a store of its own, which is closed at the end of the test.
func New(t testing.TB) *Fixture {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &Fixture{Store: s, indexes: map[digest.Digest]*layer.Index{}, contents: map[digest.Digest]map[string]string{}}
	f.Deps = export.Deps{Store: s, Stdout: io.Discard, Tree: f.tree, Blob: func(_ context.Context, l layer.Layer) (io.ReadCloser, error) {
		return s.OpenBlob(l.Descriptor.Digest)
	}}
	f.Request.Images = []image.Spec{f.spec(t, "amd64")}
	return f
}

func (f *Fixture) spec(t testing.TB, arch string) image.Spec {
	t.Helper()
	base := baseFiles()
	if arch != "amd64" {
		base = append(base, reg("zz-"+arch, 0o644, arch))
	}
	var c dockerspec.DockerOCIImage
	c.OS, c.Architecture = "linux", arch
	c.Config.Env = []string{"PATH=/bin"}
	c.Config.Cmd = []string{"/bin/sh"}
	made := at(1600000000)
	c.History = []ocispec.History{
		{CreatedBy: "base", Created: &made}, {CreatedBy: "COPY . /app"}, {CreatedBy: "ENV a=b", EmptyLayer: true}, {CreatedBy: "RUN x"},
	}
	s := image.Spec{
		Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Config: c, OwnHistory: 3, Base: []layer.Layer{f.layer(t, base)},
	}
	for i, files := range builtFiles() {
		s.Layers = append(s.Layers, image.Layer{Layer: f.layer(t, files), Created: at(Built + int64(i))})
	}
	return s
}

// AddPlatform adds the same image for another architecture.
func (f *Fixture) AddPlatform(t testing.TB, arch string) {
	t.Helper()
	f.Request.Images = append(f.Request.Images, f.spec(t, arch))
}

func (f *Fixture) layer(t testing.TB, files []file) layer.Layer {
	t.Helper()
	w, err := f.Store.NewBlob(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	lw, err := layer.NewWriter(w, layer.Compression{})
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string]string{}
	var items []layer.Item
	for _, fi := range files {
		it := layer.Item{Entry: fi.Entry}
		if fi.Type == layer.File {
			contents[fi.Path] = fi.content
			it.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(fi.content)), nil }
		}
		items = append(items, it)
	}
	if err := layer.WriteAll(context.Background(), lw, items); err != nil {
		t.Fatal(err)
	}
	diffID, mt, ix, err := lw.Close()
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	d.MediaType = mt
	f.indexes[diffID], f.contents[diffID] = ix, contents
	return layer.Layer{DiffID: diffID, Descriptor: d}
}

func (f *Fixture) tree(_ context.Context, layers []layer.Layer) (layer.Tree, error) {
	var ixs []*layer.Index
	for _, l := range layers {
		ix, ok := f.indexes[l.DiffID]
		if !ok {
			return nil, fmt.Errorf("layer %s is not one of the fixture", l.DiffID)
		}
		ixs = append(ixs, ix)
	}
	return layer.Stack(ixs, func(n int, name string) (io.ReadCloser, error) {
		c, ok := f.contents[layers[n].DiffID][name]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return io.NopCloser(strings.NewReader(c)), nil
	}), nil
}

// CheckLayout checks an OCI layout from its index down: every blob has the digest and size that its descriptor gives, and
// every layer the DiffID that the config gives. It returns the index.
func CheckLayout(t testing.TB, layout fs.FS) ocispec.Index {
	t.Helper()
	var ix ocispec.Index
	data, err := fs.ReadFile(layout, "index.json")
	if err != nil {
		t.Fatal(err)
	}
	decode(t, data, &ix)
	if data, err = fs.ReadFile(layout, "oci-layout"); err != nil || string(data) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout: %s %v", data, err)
	}
	for _, d := range ix.Manifests {
		checkManifest(t, layout, d)
	}
	return ix
}

func decode(t testing.TB, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
}

func blob(t testing.TB, layout fs.FS, d ocispec.Descriptor) []byte {
	t.Helper()
	data, err := fs.ReadFile(layout, "blobs/sha256/"+d.Digest.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(data) != d.Digest || int64(len(data)) != d.Size {
		t.Fatalf("blob %s has %d bytes and another digest than its descriptor", d.Digest, len(data))
	}
	return data
}

func checkManifest(t testing.TB, layout fs.FS, d ocispec.Descriptor) {
	t.Helper()
	data := blob(t, layout, d)
	if d.MediaType == ocispec.MediaTypeImageIndex {
		var ix ocispec.Index
		decode(t, data, &ix)
		for _, d := range ix.Manifests {
			checkManifest(t, layout, d)
		}
		return
	}
	var m ocispec.Manifest
	decode(t, data, &m)
	var c ocispec.Image
	decode(t, blob(t, layout, m.Config), &c)
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		t.Fatalf("%d DiffIDs for %d layers", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	for i, l := range m.Layers {
		r, _, err := layer.Decompress(bytes.NewReader(blob(t, layout, l)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := digest.FromReader(r)
		if err != nil {
			t.Fatal(err)
		}
		if got != c.RootFS.DiffIDs[i] {
			t.Errorf("layer %d has DiffID %s, the config says %s", i, got, c.RootFS.DiffIDs[i])
		}
	}
}

// Suite is what every output that writes a file or directory must do: write the same twice, leave what is there alone when
// it fails or is cancelled, and leave nothing else behind. output returns the Output for a path.
func Suite(t *testing.T, output func(dest string) export.Output) {
	t.Run("the same bytes twice", func(t *testing.T) {
		var got [2]string
		for i := range got {
			f := New(t)
			f.Request.Names = []string{"example.com/app:v1", "example.com/app:v2"}
			dest := filepath.Join(t.TempDir(), "out")
			if _, err := export.Export(context.Background(), output(dest), f.Request, f.Deps); err != nil {
				t.Fatal(err)
			}
			got[i] = Hash(t, dest)
		}
		if got[0] != got[1] {
			t.Error("two exports of the same image differ")
		}
	})
	for _, why := range []string{"an error", "a cancelled context"} {
		t.Run(why+" leaves the old file", func(t *testing.T) {
			f := New(t)
			where := t.TempDir()
			dest := filepath.Join(where, "out")
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if err := os.WriteFile(dest, []byte("old"), 0o640); err != nil {
				t.Fatal(err)
			}
			if why == "an error" {
				f.Deps.Blob = func(context.Context, layer.Layer) (io.ReadCloser, error) { return nil, errors.New("broken") }
				f.Deps.Tree = func(context.Context, []layer.Layer) (layer.Tree, error) { return nil, errors.New("broken") }
			} else {
				cancel()
			}
			if _, err := export.Export(ctx, output(dest), f.Request, f.Deps); err == nil {
				t.Error("no error")
			}
			if data, err := os.ReadFile(dest); err != nil || string(data) != "old" {
				t.Errorf("the old file is %q, %v", data, err)
			}
			entries, err := os.ReadDir(where)
			if err != nil || len(entries) != 1 {
				t.Errorf("left behind: %v %v", entries, err)
			}
		})
	}
}

// Hash is the digest of a file, or of the names, modes and contents of all that is in a directory.
func Hash(t testing.TB, path string) string {
	t.Helper()
	var b bytes.Buffer
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%q %v\n", rel, fi.Mode())
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s\n", digest.FromBytes(data))
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%q\n", target)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(b.Bytes()).String()
}
