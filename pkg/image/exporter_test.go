package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// file is a member of an archive; link makes it a symlink.
type file struct {
	name, content, link string
}

func pack(t *testing.T, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.content)), Mode: 0o644}
		if f.link != "" {
			h = &tar.Header{Typeflag: tar.TypeSymlink, Name: f.name, Linkname: f.link}
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func unpack(t *testing.T, archive []byte) (map[string]string, []*tar.Header) {
	t.Helper()
	files := map[string]string{}
	var headers []*tar.Header
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := files[h.Name]; ok {
			t.Errorf("%s is there twice", h.Name)
		}
		files[h.Name] = string(data)
		headers = append(headers, h)
	}
}

func decodeJSON[T any](t *testing.T, data string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}

// layerTar is the archive of a layer with one file.
func layerTar(t *testing.T, name, content string) string {
	return string(pack(t, file{name: name, content: content}))
}

// load loads an archive and returns the lines said and the progress reported.
func load(t *testing.T, lo *Local, archive []byte, quiet bool, o ExporterOptions) (lines []string, progress int, err error) {
	t.Helper()
	var out bytes.Buffer
	err = NewExporter(lo, o).Load(context.Background(), io.NopCloser(bytes.NewReader(archive)), &out, quiet)
	for dec := json.NewDecoder(&out); ; {
		var m jsonstream.Message
		if derr := dec.Decode(&m); derr == io.EOF {
			return lines, progress, err
		} else if derr != nil {
			t.Fatal(derr)
		}
		if m.Progress != nil {
			progress++
		}
		if m.Stream != "" {
			lines = append(lines, strings.TrimSuffix(m.Stream, "\n"))
		}
	}
}

func mustLoad(t *testing.T, lo *Local, archive []byte) []string {
	t.Helper()
	lines, _, err := load(t, lo, archive, true, ExporterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func save(t *testing.T, lo *Local, o ExporterOptions, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := NewExporter(lo, o).Save(context.Background(), names, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// dockerArchive is one image in Docker's form, each layer given as the archive holds it.
func dockerArchive(t *testing.T, conf []byte, tags []string, layers ...string) []byte {
	t.Helper()
	item := manifestItem{Config: "config.json", RepoTags: tags}
	files := []file{{name: "config.json", content: string(conf)}}
	for i, l := range layers {
		name := string(rune('a'+i)) + "/layer.tar"
		item.Layers = append(item.Layers, name)
		files = append(files, file{name: name, content: l})
	}
	data, err := json.Marshal([]manifestItem{item})
	if err != nil {
		t.Fatal(err)
	}
	return pack(t, append(files, file{name: "manifest.json", content: string(data)})...)
}

// build keeps an image of layers that each hold one file, as `cairn build` would.
func build(t *testing.T, lo *Local, names []string, contents ...string) Set {
	t.Helper()
	return buildFor(t, lo, names, []string{"amd64"}, contents...)
}

func buildFor(t *testing.T, lo *Local, names, archs []string, contents ...string) Set {
	t.Helper()
	var specs []Spec
	for _, arch := range archs {
		s := Spec{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
		s.Config.OS, s.Config.Architecture = "linux", arch
		for _, c := range contents {
			s.Config.History = append(s.Config.History, ocispec.History{CreatedBy: "RUN " + c})
			s.Layers = append(s.Layers, Layer{Layer: putLayer(t, lo, map[string]string{c + arch: c}), Created: at(1600000000)})
		}
		s.OwnHistory = len(contents)
		specs = append(specs, s)
	}
	set, err := Assemble(specs, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lo.Put(context.Background(), set, names); err != nil {
		t.Fatal(err)
	}
	return set
}

func TestSaveLayout(t *testing.T) {
	lo := newLocal(t)
	one := build(t, lo, []string{"app:v1", "app:v2", "example.com/other"}, "base", "one")
	two := build(t, lo, []string{"two"}, "base", "two")
	archive := save(t, lo, ExporterOptions{}, "app", "two:latest", "two")
	files, headers := unpack(t, archive)

	items := decodeJSON[[]manifestItem](t, files["manifest.json"])
	if len(items) != 2 || !slices.Equal(items[0].RepoTags, []string{"app:v1", "app:v2"}) || !slices.Equal(items[1].RepoTags, []string{"two:latest"}) {
		t.Errorf("manifest.json: %+v", items)
	}
	for i, set := range []Set{one, two} {
		b := set.Images[0]
		if files[items[i].Config] != string(b.Config) || items[i].Config != "blobs/sha256/"+set.ConfigDigest().Encoded() {
			t.Errorf("%d: config %s", i, items[i].Config)
		}
		for j, l := range items[i].Layers {
			if digest.FromString(files[l]) != b.Layers[j].DiffID {
				t.Errorf("%d: layer %s is not the uncompressed archive", i, l)
			}
		}
	}
	repos := decodeJSON[map[string]map[string]string](t, files["repositories"])
	if top := one.Images[0].Layers[1].DiffID.Encoded(); repos["app"]["v1"] != top || repos["app"]["v2"] != top || len(repos) != 2 {
		t.Errorf("repositories: %v", repos)
	}
	// Five layers' worth of names, three different layers: each is there once.
	layers := 0
	for name, data := range files {
		if d, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && d != "" && digest.FromString(data).Encoded() != d {
			t.Errorf("%s has other content", name)
		}
		if strings.HasPrefix(data, "onea") || strings.Contains(data, "ustar") {
			layers++
		}
	}
	if layers != 3 {
		t.Errorf("%d layers", layers)
	}

	if l := decodeJSON[ocispec.ImageLayout](t, files["oci-layout"]); l.Version != "1.0.0" {
		t.Errorf("oci-layout %+v", l)
	}
	ix := decodeJSON[ocispec.Index](t, files["index.json"])
	var names []string
	for _, d := range ix.Manifests {
		names = append(names, d.Annotations["io.containerd.image.name"]+" "+d.Annotations["org.opencontainers.image.ref.name"])
		m := decodeJSON[ocispec.Manifest](t, files[blobName(d.Digest)])
		for _, l := range m.Layers {
			if l.MediaType != ocispec.MediaTypeImageLayer || int64(len(files[blobName(l.Digest)])) != l.Size {
				t.Errorf("layer %+v", l)
			}
		}
	}
	if !slices.Equal(names, []string{"docker.io/library/app:v1 v1", "docker.io/library/app:v2 v2", "docker.io/library/two:latest latest"}) {
		t.Errorf("index.json: %q", names)
	}
	for _, h := range headers {
		if want := int64(0); h.ModTime.Unix() != want && h.ModTime.Unix() != 1600000000 {
			t.Errorf("%s has the time %v", h.Name, h.ModTime)
		}
	}
	if again := save(t, lo, ExporterOptions{}, "app", "two:latest", "two"); !bytes.Equal(again, archive) {
		t.Error("saving the same twice gives different bytes")
	}
}

// TestSaveNames: what an argument may be.
func TestSaveNames(t *testing.T) {
	lo := newLocal(t)
	set := build(t, lo, []string{"app:v1", "app:v2", "feed"}, "x")
	other := build(t, lo, []string{"other:v1"}, "y")
	hex := set.ConfigDigest().Encoded()
	for _, c := range []struct {
		arg  string
		tags []string
	}{
		{"app", []string{"app:v1", "app:v2"}}, {"app:v2", []string{"app:v2"}}, {"docker.io/library/app:v1", []string{"app:v1"}},
		{hex, nil}, {hex[:12], nil}, {"sha256:" + hex, nil}, {"sha256:" + hex[:10], nil}, {set.Descriptor.Digest.String(), nil},
		{"feed", []string{"feed:latest"}}, // a name, although it could be the beginning of an ID
	} {
		files, _ := unpack(t, save(t, lo, ExporterOptions{}, c.arg))
		items := decodeJSON[[]manifestItem](t, files["manifest.json"])
		if len(items) != 1 || !slices.Equal(items[0].RepoTags, c.tags) || path.Base(items[0].Config) != hex {
			t.Errorf("%s: %+v", c.arg, items)
		}
	}
	files, _ := unpack(t, save(t, lo, ExporterOptions{}, hex[:12], "app:v1", "other:v1", other.ConfigDigest().String()))
	if items := decodeJSON[[]manifestItem](t, files["manifest.json"]); len(items) != 2 || !slices.Equal(items[0].RepoTags, []string{"app:v1"}) {
		t.Errorf("an ID and a name of one image: %+v", items)
	}
	for _, bad := range []string{"none", "app:v3", "0123456789ab", "sha256:", "UPPER", ""} {
		err := NewExporter(lo, ExporterOptions{}).Save(context.Background(), []string{bad}, io.Discard)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Save(%q): %v", bad, err)
		}
	}
	if err := NewExporter(lo, ExporterOptions{}).Save(context.Background(), nil, io.Discard); err == nil {
		t.Error("nothing was saved")
	}
}

func TestSaveEmptyImage(t *testing.T) {
	lo := newLocal(t)
	build(t, lo, []string{"empty"})
	err := NewExporter(lo, ExporterOptions{}).Save(context.Background(), []string{"empty"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "empty export - not implemented") {
		t.Errorf("%v", err)
	}
}

// TestSaveFetches: a layer that is only known to be in a registry is fetched; without a way to, that is an error.
func TestSaveFetches(t *testing.T) {
	lo := newLocal(t)
	set := build(t, lo, []string{"app"}, "x")
	l := set.Images[0].Layers[0]
	blob, err := lo.store.ReadBlob(l.Descriptor.Digest, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(lo.store.Root() + "/blobs/sha256/" + l.Descriptor.Digest.Encoded()); err != nil {
		t.Fatal(err)
	}
	if err := NewExporter(lo, ExporterOptions{}).Save(context.Background(), []string{"app"}, io.Discard); err == nil {
		t.Error("an image without its layers was saved")
	}
	fetched := 0
	o := ExporterOptions{Blob: func(_ context.Context, of layer.Layer) (io.ReadCloser, error) {
		fetched++
		return io.NopCloser(bytes.NewReader(blob)), nil
	}}
	if files, _ := unpack(t, save(t, lo, o, "app")); fetched != 1 || digest.FromString(files[blobName(l.DiffID)]) != l.DiffID {
		t.Errorf("fetched %d times", fetched)
	}
}

func TestSaveAndLoadForeignLayers(t *testing.T) {
	lo := newLocal(t)
	tarball := layerTar(t, "f", "x")
	diffID := digest.FromString(tarball)
	src := ocispec.Descriptor{MediaType: dockerForeign, Digest: digest.FromString("elsewhere"), Size: 7, URLs: []string{"https://example.com/layer"}}
	item := manifestItem{Config: "c", RepoTags: []string{"foreign:v1"}, Layers: []string{"l"}, LayerSources: map[digest.Digest]ocispec.Descriptor{diffID: src}}
	data, err := json.Marshal([]manifestItem{item})
	if err != nil {
		t.Fatal(err)
	}
	mustLoad(t, lo, pack(t, file{name: "c", content: string(config(t, "", diffID))}, file{name: "l", content: tarball}, file{name: "manifest.json", content: string(data)}))
	files, _ := unpack(t, save(t, lo, ExporterOptions{}, "foreign:v1"))
	got := decodeJSON[[]manifestItem](t, files["manifest.json"])
	if s := got[0].LayerSources[diffID]; s.Digest != src.Digest || !slices.Equal(s.URLs, src.URLs) {
		t.Errorf("the source was not kept: %+v", got)
	}
}

// TestSaveThenLoad: an image comes out as it went in: the same ID, and through an index the same digest.
func TestSaveThenLoad(t *testing.T) {
	lo, other := newLocal(t), newLocal(t)
	one := build(t, lo, []string{"one:v1", "one:v2"}, "a", "b")
	multi := buildFor(t, lo, []string{"multi"}, []string{"amd64", "arm64"}, "a")
	lines := mustLoad(t, other, save(t, lo, ExporterOptions{}, "one", "multi", one.ConfigDigest().String()))
	if want := []string{"Loaded image: multi:latest", "Loaded image: one:v1", "Loaded image: one:v2"}; !slices.Equal(lines, want) {
		t.Errorf("%q", lines)
	}
	got, err := other.Get("one:v2")
	if err != nil || got.ConfigDigest() != one.ConfigDigest() || got.Images[0].Layers[0].Descriptor.Digest != one.Images[0].Layers[0].Descriptor.Digest {
		t.Errorf("%+v %v", got.Descriptor, err)
	}
	if got, err = other.Get("multi"); err != nil || got.Descriptor.Digest != multi.Descriptor.Digest || len(got.Images) != 2 {
		t.Errorf("index: %+v %v", got.Descriptor, err)
	}
	entries, err := other.List()
	if err != nil || len(entries) != 3 {
		t.Errorf("%v %v", entries, err)
	}
	// One platform of an index.
	arm := ocispec.Platform{OS: "linux", Architecture: "arm64"}
	files, _ := unpack(t, save(t, lo, ExporterOptions{Platform: &arm}, "multi"))
	items := decodeJSON[[]manifestItem](t, files["manifest.json"])
	if len(items) != 1 || path.Base(items[0].Config) != multi.Images[1].ConfigDescriptor.Digest.Encoded() {
		t.Errorf("%+v", items)
	}
	sparc := ocispec.Platform{OS: "linux", Architecture: "sparc"}
	if err := NewExporter(lo, ExporterOptions{Platform: &sparc}).Save(context.Background(), []string{"multi"}, io.Discard); err == nil {
		t.Error("a platform that is not there was saved")
	}
}

// TestLoadCompression: the archive and the layers in it may be compressed in any way.
func TestLoadCompression(t *testing.T) {
	tarball := layerTar(t, "f", "x")
	gz := func(s string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.String()
	}
	zst := func(s string) string {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(w.EncodeAll([]byte(s), nil))
	}
	none := func(s string) string { return s }
	conf := config(t, "c", digest.FromString(tarball))
	for name, inner := range map[string]func(string) string{"plain": none, "gzip": gz, "zstd": zst} {
		for oname, outer := range map[string]func(string) string{"plain": none, "gzip": gz, "zstd": zst} {
			lo := newLocal(t)
			archive := dockerArchive(t, conf, []string{"app:v1"}, inner(tarball))
			mustLoad(t, lo, []byte(outer(string(archive))))
			set, err := lo.Get("app:v1")
			if err != nil || set.ConfigDigest() != digest.FromBytes(conf) {
				t.Errorf("%s in %s: %v", name, oname, err)
				continue
			}
			if mt := set.Images[0].Layers[0].Descriptor.MediaType; name == "zstd" && mt != ocispec.MediaTypeImageLayerZstd || name != "zstd" && mt != ocispec.MediaTypeImageLayerGzip {
				t.Errorf("%s: kept as %s", name, mt)
			}
			if _, err := lo.store.LayerIndex(digest.FromString(tarball)); err != nil {
				t.Errorf("%s: no index: %v", name, err)
			}
		}
	}
}

func TestLoadFromFile(t *testing.T) {
	tarball := layerTar(t, "f", "x")
	archive := dockerArchive(t, config(t, "c", digest.FromString(tarball)), []string{"app:v1"}, tarball)
	name := t.TempDir() + "/a.tar"
	if err := os.WriteFile(name, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lo := newLocal(t)
	if err := NewExporter(lo, ExporterOptions{}).Load(context.Background(), f, io.Discard, true); err != nil {
		t.Fatal(err)
	}
	if _, err := lo.Get("app:v1"); err != nil {
		t.Error(err)
	}
}

func TestLoadErrors(t *testing.T) {
	tarball := layerTar(t, "f", "x")
	diffID := digest.FromString(tarball)
	conf := config(t, "c", diffID)
	manifest := func(s string) file { return file{name: "manifest.json", content: s} }
	windows := bytes.Replace(conf, []byte(`"linux"`), []byte(`"windows"`), 1)
	deep := config(t, "deep", slices.Repeat([]digest.Digest{diffID}, MaxLayerDepth+1)...)
	for name, archive := range map[string][]byte{
		"nothing":               nil,
		"no tar":                []byte("hello, this is no archive at all"),
		"no manifest":           pack(t, file{name: "x", content: "y"}),
		"null":                  pack(t, manifest("null")),
		"no list":               pack(t, manifest("{}")),
		"half":                  pack(t, manifest("[{")),
		"no config":             pack(t, manifest(`[{"Config":"c"}]`)),
		"config is a directory": pack(t, manifest(`[{"Config":"."}]`)),
		"no rootfs":             pack(t, manifest(`[{"Config":"c"}]`), file{name: "c", content: "{}"}),
		"fewer layers":          dockerArchive(t, conf, nil),
		"more layers":           dockerArchive(t, conf, nil, tarball, tarball),
		"other content":         dockerArchive(t, conf, nil, layerTar(t, "f", "y")),
		"layer is no tar":       dockerArchive(t, config(t, "c", digest.FromString("junk")), nil, "junk"),
		"cut":                   dockerArchive(t, conf, nil, tarball)[:700],
		"bad tag":               dockerArchive(t, conf, []string{"UPPER:v1"}, tarball),
		"no tag":                dockerArchive(t, conf, []string{"app"}, tarball),
		"other system":          dockerArchive(t, windows, nil, tarball),
		"too deep":              dockerArchive(t, deep, nil, slices.Repeat([]string{tarball}, MaxLayerDepth+1)...),
		"link out":              pack(t, manifest(`[{"Config":"c"}]`), file{name: "c", link: "../../../../etc/passwd"}),
		"absolute link":         pack(t, manifest(`[{"Config":"c"}]`), file{name: "c", link: "/etc/passwd"}),
		"path out":              pack(t, manifest(`[{"Config":"../../../../etc/passwd"}]`)),
		"link to itself":        pack(t, manifest(`[{"Config":"c"}]`), file{name: "c", link: "c"}),
		"links in a circle":     pack(t, manifest(`[{"Config":"a/x"}]`), file{name: "a", link: "b"}, file{name: "b", link: "a"}),
		"index null":            pack(t, file{name: "index.json", content: `{"manifests":[{"digest":"sha256:../../x"}]}`}),
		"index without blobs":   pack(t, file{name: "index.json", content: `{"manifests":[{"digest":"` + diffID.String() + `"}]}`}),
	} {
		lo := newLocal(t)
		if lines, _, err := load(t, lo, archive, true, ExporterOptions{}); err == nil {
			t.Errorf("%s was loaded: %q", name, lines)
		}
		if entries, err := lo.List(); err != nil || len(entries) != 0 {
			t.Errorf("%s left %v %v", name, entries, err)
		}
	}
	lo := newLocal(t)
	if lines, _, err := load(t, lo, pack(t, manifest("[]")), true, ExporterOptions{}); err != nil || len(lines) != 0 {
		t.Errorf("an empty list: %q %v", lines, err)
	}
	if _, _, err := load(t, lo, dockerArchive(t, deep, nil, slices.Repeat([]string{tarball}, MaxLayerDepth+1)...), true, ExporterOptions{}); !errors.Is(err, ErrMaxDepthExceeded) {
		t.Errorf("too deep: %v", err)
	}
}

// TestLoadLinks: podman's and old Docker's archives have symlinks for layers.
func TestLoadLinks(t *testing.T) {
	tarball := layerTar(t, "f", "x")
	diffID := digest.FromString(tarball)
	lo := newLocal(t)
	mustLoad(t, lo, pack(t, file{name: "dir/config", content: string(config(t, "c", diffID))}, file{name: "alias", link: "dir"},
		file{name: "aa/layer.tar", link: "../" + diffID.Encoded() + ".tar"}, file{name: diffID.Encoded() + ".tar", content: tarball},
		file{name: "manifest.json", content: `[{"Config":"alias/config","RepoTags":["app:v1"],"Layers":["aa/layer.tar"]}]`}))
	if _, err := lo.Get("app:v1"); err != nil {
		t.Error(err)
	}
}

// TestLoadReusesLayers: what is held is not read, so it need not even be right in the archive.
func TestLoadReusesLayers(t *testing.T) {
	tarball := layerTar(t, "f", "x")
	conf := config(t, "c", digest.FromString(tarball))
	lo := newLocal(t)
	mustLoad(t, lo, dockerArchive(t, conf, []string{"app:v1"}, tarball))
	lines, progress, err := load(t, lo, dockerArchive(t, conf, []string{"app:v2"}, "not read"), false, ExporterOptions{})
	if err != nil || progress != 0 || !slices.Equal(lines, []string{"Loaded image: app:v2"}) {
		t.Errorf("%q, %d reports of progress, %v", lines, progress, err)
	}
}

func TestLoadRetag(t *testing.T) {
	lo := newLocal(t)
	a, b := layerTar(t, "f", "a"), layerTar(t, "f", "b")
	confA, confB := config(t, "a", digest.FromString(a)), config(t, "b", digest.FromString(b))
	mustLoad(t, lo, dockerArchive(t, confA, []string{"app:v1"}, a))
	lines := mustLoad(t, lo, dockerArchive(t, confB, []string{"app:v1"}, b))
	idA, idB := digest.FromBytes(confA), digest.FromBytes(confB)
	if want := []string{"The image app:v1 already exists, renaming the old one with ID " + idA.String() + " to empty string", "Loaded image: app:v1"}; !slices.Equal(lines, want) {
		t.Errorf("%q", lines)
	}
	if set, err := lo.Get("app:v1"); err != nil || set.ConfigDigest() != idB {
		t.Errorf("%v %v", set.ConfigDigest(), err)
	}
	// The old one has lost its name, but is there.
	if names, err := lo.Names(idA.String()); err != nil || len(names) != 0 {
		t.Errorf("%v %v", names, err)
	}
	// The same again is no renaming.
	if lines = mustLoad(t, lo, dockerArchive(t, confB, []string{"app:v1"}, b)); len(lines) != 1 {
		t.Errorf("%q", lines)
	}
	// Without a name, the ID is said.
	if lines = mustLoad(t, lo, dockerArchive(t, config(t, "c", digest.FromString(a)), nil, a)); len(lines) != 1 || !strings.HasPrefix(lines[0], "Loaded image ID: sha256:") {
		t.Errorf("%q", lines)
	}
	st, err := lo.Store()
	if err != nil {
		t.Fatal(err)
	}
	if at, err := st.GetLastUpdated(ID(idB)); err != nil || time.Since(at) > time.Minute {
		t.Errorf("GetLastUpdated: %v %v", at, err)
	}
	if built, err := st.IsBuiltLocally(ID(idB)); err != nil || built {
		t.Errorf("IsBuiltLocally: %v %v", built, err)
	}
}

func TestLoadProgress(t *testing.T) {
	tarball := layerTar(t, "f", strings.Repeat("x", 1<<20))
	archive := dockerArchive(t, config(t, "c", digest.FromString(tarball)), nil, tarball)
	if _, n, err := load(t, newLocal(t), archive, false, ExporterOptions{}); err != nil || n == 0 {
		t.Errorf("%d reports of progress, %v", n, err)
	}
	if _, n, err := load(t, newLocal(t), archive, true, ExporterOptions{}); err != nil || n != 0 {
		t.Errorf("quiet: %d reports of progress, %v", n, err)
	}
}

func TestLoadPlatform(t *testing.T) {
	lo, other := newLocal(t), newLocal(t)
	buildFor(t, lo, []string{"multi"}, []string{"amd64", "arm64"}, "a")
	archive := save(t, lo, ExporterOptions{}, "multi")
	arm := ocispec.Platform{OS: "linux", Architecture: "arm64"}
	if _, _, err := load(t, other, archive, true, ExporterOptions{Platform: &arm}); err != nil {
		t.Fatal(err)
	}
	if set, err := other.Get("multi"); err != nil || len(set.Images) != 1 || set.Images[0].Descriptor.Platform.Architecture != "arm64" {
		t.Errorf("%+v %v", set, err)
	}
	tarball := layerTar(t, "f", "x")
	single := dockerArchive(t, config(t, "c", digest.FromString(tarball)), []string{"app:v1"}, tarball)
	if _, _, err := load(t, other, single, true, ExporterOptions{Platform: &arm}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an archive for another platform: %v", err)
	}
}

// TestLoadParents: a parent is linked if the child's history says that it was made from it.
func TestLoadParents(t *testing.T) {
	a, b := layerTar(t, "f", "a"), layerTar(t, "f", "b")
	da, db := digest.FromString(a), digest.FromString(b)
	parent, child, stranger := config(t, "", da), config(t, "", da, db), config(t, "", db, da)
	archive := func(child []byte, layers string) []byte {
		item := `[{"Config":"p","Layers":["a"]},{"Config":"c","Layers":` + layers + `,"Parent":"` + digest.FromBytes(parent).String() + `"}]`
		return pack(t, file{name: "p", content: string(parent)}, file{name: "c", content: string(child)}, file{name: "a", content: a},
			file{name: "b", content: b}, file{name: "manifest.json", content: item})
	}
	lo := newLocal(t)
	mustLoad(t, lo, archive(child, `["a","b"]`))
	mustLoad(t, lo, archive(stranger, `["b","a"]`))
	st, err := lo.Store()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := st.GetParent(ID(digest.FromBytes(child))); err != nil || p.Digest() != digest.FromBytes(parent) {
		t.Errorf("%s %v", p, err)
	}
	if p, err := st.GetParent(ID(digest.FromBytes(stranger))); err == nil {
		t.Errorf("a stranger was linked to %s", p)
	}
	// And saving both says so.
	files, _ := unpack(t, save(t, lo, ExporterOptions{}, digest.FromBytes(child).String(), digest.FromBytes(parent).String()))
	if items := decodeJSON[[]manifestItem](t, files["manifest.json"]); items[0].Parent.Digest() != digest.FromBytes(parent) || items[1].Parent != "" {
		t.Errorf("%+v", items)
	}
}
