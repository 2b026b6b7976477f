package language

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is an image as the archive has it, its layers applied one over the other by code of the tests' own.
type image struct {
	platform ocispec.Platform
	config   dockerspec.DockerOCIImage
	files    map[string]entry
	layers   [][]entry
	manifest ocispec.Manifest
	// fields are all of the config's, inIndex whether the image is in an index beside that of the archive.
	fields  map[string]json.RawMessage
	inIndex bool
}

// entry is a file of an image.
type entry struct {
	tar.Header
	data string
}

// check looks at one thing of an image.
type check func(t *testing.T, im *image)

// readArchive reads the images of an OCI archive, in the order of its index.
func readArchive(t *testing.T, name string) []*image {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	blobs := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if blobs[path.Clean(h.Name)], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	var index ocispec.Index
	decode(t, blobs["index.json"], &index)
	return readIndex(t, blobs, index)
}

func readIndex(t *testing.T, blobs map[string][]byte, index ocispec.Index) (out []*image) {
	t.Helper()
	for _, d := range index.Manifests {
		body := blobs["blobs/sha256/"+d.Digest.Encoded()]
		if d.MediaType == ocispec.MediaTypeImageIndex {
			var inner ocispec.Index
			decode(t, body, &inner)
			for _, im := range readIndex(t, blobs, inner) {
				im.inIndex = true
				out = append(out, im)
			}
			continue
		}
		im := &image{files: map[string]entry{}}
		decode(t, body, &im.manifest)
		decode(t, blobs["blobs/sha256/"+im.manifest.Config.Digest.Encoded()], &im.config)
		decode(t, blobs["blobs/sha256/"+im.manifest.Config.Digest.Encoded()], &im.fields)
		if im.platform = im.config.Platform; d.Platform != nil {
			im.platform = *d.Platform
		}
		for _, l := range im.manifest.Layers {
			im.apply(t, blobs["blobs/sha256/"+l.Digest.Encoded()])
		}
		out = append(out, im)
	}
	return out
}

func decode(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v in %q", err, data)
	}
}

// apply puts a layer on top.
func (im *image) apply(t *testing.T, blob []byte) {
	t.Helper()
	var r io.Reader = bytes.NewReader(blob)
	if gz, err := gzip.NewReader(bytes.NewReader(blob)); err == nil {
		r = gz
	}
	var list []entry
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		e := entry{*h, string(data)}
		e.Name = path.Clean("/" + h.Name)
		list = append(list, e)
	}
	im.layers = append(im.layers, list)
	for _, e := range list {
		dir, base := path.Split(e.Name)
		if base == ".wh..wh..opq" {
			im.removeBelow(path.Clean(dir))
		} else if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
			delete(im.files, dir+hidden)
			im.removeBelow(dir + hidden)
		}
	}
	for _, e := range list {
		if strings.HasPrefix(path.Base(e.Name), ".wh.") {
			continue
		}
		if e.Typeflag != tar.TypeDir {
			im.removeBelow(e.Name)
		}
		if e.Typeflag == tar.TypeLink {
			e.data = im.files[path.Clean("/"+e.Linkname)].data
		}
		im.files[e.Name] = e
	}
}

func (im *image) removeBelow(dir string) {
	for name := range im.files {
		if strings.HasPrefix(name, dir+"/") {
			delete(im.files, name)
		}
	}
}

// own are the entries of the layers beyond the base's.
func (im *image) own() (names []string) {
	for _, l := range im.layers[1:] {
		for _, e := range l {
			names = append(names, e.Name)
		}
	}
	return names
}

func (im *image) must(t *testing.T, name string) entry {
	t.Helper()
	e, ok := im.files[name]
	if !ok {
		t.Errorf("%s is not in the image; its own files are %v", name, im.names())
	}
	return e
}

func (im *image) names() []string {
	var out []string
	for name := range im.files {
		if !strings.HasPrefix(name, "/bin/") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// has wants a regular file with this content.
func has(name, content string) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if e := im.must(t, name); e.data != content {
			t.Errorf("%s is %q, want %q", name, e.data, content)
		}
	}
}

// contains wants a regular file with this text in it.
func contains(name, text string) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if e := im.must(t, name); !strings.Contains(e.data, text) {
			t.Errorf("%s is %q, without %q", name, e.data, text)
		}
	}
}

// lacks wants none of these.
func lacks(names ...string) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		for _, n := range names {
			if _, ok := im.files[n]; ok {
				t.Errorf("%s is in the image", n)
			}
		}
	}
}

// mode wants a file's permissions, with setuid (04000), setgid (02000) and sticky (01000).
func mode(name string, want int64) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if e := im.must(t, name); e.Mode&0o7777 != want {
			t.Errorf("%s has mode %04o, want %04o", name, e.Mode&0o7777, want)
		}
	}
}

// owner wants a file's uid:gid.
func owner(name, want string) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if e := im.must(t, name); fmt.Sprintf("%d:%d", e.Uid, e.Gid) != want {
			t.Errorf("%s belongs to %d:%d, want %s", name, e.Uid, e.Gid, want)
		}
	}
}

// dir wants a directory.
func dir(name string) check { return kind(name, tar.TypeDir) }

func kind(name string, want byte) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if e := im.must(t, name); e.Typeflag != want {
			t.Errorf("%s has type %q, want %q", name, e.Typeflag, want)
		}
	}
}

// symlink wants a symlink.
func symlink(name, target string) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if e := im.must(t, name); e.Typeflag != tar.TypeSymlink || e.Linkname != target {
			t.Errorf("%s is of type %q to %q, want a symlink to %q", name, e.Typeflag, e.Linkname, target)
		}
	}
}

// changed wants a file's time, in seconds.
func changed(name string, want int64) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if e := im.must(t, name); e.ModTime.Unix() != want {
			t.Errorf("%s is of %s, want %s", name, e.ModTime.UTC(), time.Unix(want, 0).UTC())
		}
	}
}

// layers wants so many layers beyond the base's.
func layers(n int) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if got := len(im.layers) - 1; got != n {
			t.Errorf("%d layers beyond the base's, want %d", got, n)
		}
	}
}

// config wants a field of the config, which get returns, to be this.
func config(want any, get func(c *dockerspec.DockerOCIImage) any) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if got := get(&im.config); !reflect.DeepEqual(got, want) {
			t.Errorf("config has %#v, want %#v", got, want)
		}
	}
}

// env wants the environment to be this, after the PATH of the base.
func env(want ...string) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if got := im.config.Config.Env[1:]; !slices.Equal(got, want) {
			t.Errorf("environment %q, want %q", got, want)
		}
	}
}

func cmd(want ...string) check {
	return config(want, func(c *dockerspec.DockerOCIImage) any { return c.Config.Cmd })
}

func entrypoint(want ...string) check {
	return config(want, func(c *dockerspec.DockerOCIImage) any { return c.Config.Entrypoint })
}

func user(want string) check {
	return config(want, func(c *dockerspec.DockerOCIImage) any { return c.Config.User })
}

func workdir(want string) check {
	return config(want, func(c *dockerspec.DockerOCIImage) any { return c.Config.WorkingDir })
}

func label(name, want string) check {
	return config(want, func(c *dockerspec.DockerOCIImage) any { return c.Config.Labels[name] })
}

func onbuild(want ...string) check {
	return config(want, func(c *dockerspec.DockerOCIImage) any { return c.Config.OnBuild })
}

// history wants the last entry of the history to be this.
func history(want string) check {
	return config(want, func(c *dockerspec.DockerOCIImage) any { return c.History[len(c.History)-1].CreatedBy })
}

// forPlatform wants the image to be for a platform: "linux/arm64".
func forPlatform(want string) check {
	return config(want, func(c *dockerspec.DockerOCIImage) any {
		return strings.TrimSuffix(c.OS+"/"+c.Architecture+"/"+c.Variant, "/")
	})
}

// keys are the sorted keys of a set in the config.
func keys(want []string, get func(c *dockerspec.DockerOCIImage) map[string]struct{}) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		var got []string
		for k := range get(&im.config) {
			got = append(got, k)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("config has %q, want %q", got, want)
		}
	}
}
