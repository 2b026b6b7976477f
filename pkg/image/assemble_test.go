package image

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func testLayer(name string) layer.Layer {
	return layer.Layer{
		DiffID:     digest.FromString("diff " + name),
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(name), Size: int64(len(name))},
	}
}

func at(sec int64) time.Time { return time.Unix(sec, 0).UTC() }

func ptr(t time.Time) *time.Time { return &t }

// testSpec is a stage on a base image of two layers (one history entry of it is metadata): ENV, RUN a, CMD, RUN b, LABEL.
func testSpec() Spec {
	var c dockerspec.DockerOCIImage
	c.OS, c.Architecture, c.Author = "linux", "amd64", "somebody"
	c.OSFeatures = []string{"f"}
	c.Config.Env = []string{"PATH=/bin"}
	c.History = []ocispec.History{
		{CreatedBy: "ADD rootfs", Created: ptr(at(100))},
		{CreatedBy: "ENV x", Created: ptr(at(101)), EmptyLayer: true},
		{CreatedBy: "RUN base", Created: ptr(at(102))},
		{CreatedBy: "ENV a=b"}, {CreatedBy: "RUN a"}, {CreatedBy: "CMD"}, {CreatedBy: "RUN b"}, {CreatedBy: "LABEL"},
	}
	st := &plan.Stage{Image: c, HistoryStep: []int{-1, 0, -1, 1, -1}}
	made := func(*plan.Stage) []Layer {
		return []Layer{{testLayer("a"), at(500)}, {testLayer("b"), at(600)}}
	}
	return FromPlan(ocispec.Platform{OS: "linux", Architecture: "amd64"}, st, []layer.Layer{testLayer("base1"), testLayer("base2")}, made)
}

func decode(t *testing.T, b Built) ocispec.Image {
	t.Helper()
	var c ocispec.Image
	if err := json.Unmarshal(b.Config, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func times(c ocispec.Image) []int64 {
	var out []int64
	for _, h := range c.History {
		if h.Created == nil {
			out = append(out, -1)
		} else {
			out = append(out, h.Created.Unix())
		}
	}
	return out
}

func TestAssembleOne(t *testing.T) {
	set, err := Assemble([]Spec{testSpec()}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := set.Images[0]
	c := decode(t, b)
	if got, want := times(c), []int64{100, 101, 102, 500, 500, 500, 600, 600}; !equal(got, want) {
		t.Errorf("history times %v, want %v", got, want)
	}
	var empty []bool
	for _, h := range c.History {
		empty = append(empty, h.EmptyLayer)
	}
	if want := []bool{false, true, false, true, false, true, false, true}; !equal(empty, want) {
		t.Errorf("empty_layer %v, want %v", empty, want)
	}
	if c.Created.Unix() != 600 || b.Created.Unix() != 600 {
		t.Errorf("created %v, %v, want 600", c.Created, b.Created)
	}
	if len(c.RootFS.DiffIDs) != 4 || c.RootFS.DiffIDs[3] != testLayer("b").DiffID {
		t.Errorf("diff_ids %v", c.RootFS.DiffIDs)
	}
	if c.Author != "somebody" || !equal(c.OSFeatures, []string{"f"}) {
		t.Errorf("author %q, os.features %v", c.Author, c.OSFeatures)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	if m.MediaType != ocispec.MediaTypeImageManifest || m.Config.Digest != digest.FromBytes(b.Config) || len(m.Layers) != 4 {
		t.Errorf("manifest %+v", m)
	}
	if set.Descriptor.Digest != digest.FromBytes(b.Manifest) || set.Descriptor.Platform.Architecture != "amd64" || set.Index != nil {
		t.Errorf("descriptor %+v", set.Descriptor)
	}
	again, err := Assemble([]Spec{testSpec()}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Images[0].Config, b.Config) || !bytes.Equal(again.Images[0].Manifest, b.Manifest) {
		t.Error("assembling the same twice gave different bytes")
	}
}

func equal[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestEpoch(t *testing.T) {
	for _, tt := range []struct {
		name  string
		epoch int64
		want  []int64
	}{
		{"between", 550, []int64{100, 101, 102, 550, 550, 550, 550, 550}},
		{"before the base, whose times stay", 50, []int64{100, 101, 102, 50, 50, 50, 50, 50}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set, err := Assemble([]Spec{testSpec()}, Options{Epoch: ptr(at(tt.epoch))})
			if err != nil {
				t.Fatal(err)
			}
			if got := times(decode(t, set.Images[0])); !equal(got, tt.want) {
				t.Errorf("history times %v, want %v", got, tt.want)
			}
			if got := set.Images[0].Created.Unix(); got != tt.epoch {
				t.Errorf("created %d, want %d", got, tt.epoch)
			}
		})
	}
}

func TestStageOnStage(t *testing.T) {
	var base, top dockerspec.DockerOCIImage
	base.OS, base.Architecture = "linux", "arm64"
	base.History = []ocispec.History{{CreatedBy: "RUN 1"}, {CreatedBy: "ENV"}}
	lower := &plan.Stage{Image: base, HistoryStep: []int{0, -1}}
	top = base
	top.History = append(top.History[:2:2], ocispec.History{CreatedBy: "RUN 2"})
	upper := &plan.Stage{Image: top, HistoryStep: []int{0}, Base: plan.Source{Stage: lower}}
	made := map[*plan.Stage][]Layer{lower: {{testLayer("1"), at(10)}}, upper: {{testLayer("2"), at(20)}}}
	s := FromPlan(ocispec.Platform{}, upper, nil, func(st *plan.Stage) []Layer { return made[st] })
	set, err := Assemble([]Spec{s}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := decode(t, set.Images[0])
	if got := times(c); !equal(got, []int64{10, 20, 20}) {
		t.Errorf("times %v", got)
	}
	if !c.History[1].EmptyLayer || c.RootFS.DiffIDs[0] != testLayer("1").DiffID {
		t.Errorf("history %+v diff_ids %v", c.History, c.RootFS.DiffIDs)
	}
	if lower.Image.History[1].EmptyLayer {
		t.Error("the plan was changed")
	}
}

func TestBaseWithWrongHistory(t *testing.T) {
	for _, tt := range []struct {
		name    string
		history []ocispec.History
		empty   []bool
	}{
		{"none", nil, []bool{false, false}},
		{"too much", []ocispec.History{{CreatedBy: "1"}, {CreatedBy: "2"}, {CreatedBy: "3"}}, []bool{false, true, true, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c dockerspec.DockerOCIImage
			c.OS, c.Architecture = "linux", "amd64"
			c.History = append(tt.history, ocispec.History{CreatedBy: "RUN"})
			s := Spec{Config: c, OwnHistory: 1, Base: []layer.Layer{testLayer("base")}, Layers: []Layer{{testLayer("new"), at(9)}}}
			set, err := Assemble([]Spec{s}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			var empty []bool
			h := decode(t, set.Images[0]).History
			for _, e := range h {
				empty = append(empty, e.EmptyLayer)
			}
			if !equal(empty, tt.empty) || h[len(h)-1].CreatedBy != "RUN" {
				t.Errorf("history %+v", h)
			}
		})
	}
}

func TestScratch(t *testing.T) {
	var c dockerspec.DockerOCIImage
	c.OS, c.Architecture = "linux", "amd64"
	c.History = []ocispec.History{{CreatedBy: "LABEL", EmptyLayer: true}}
	set, err := Assemble([]Spec{{Config: c, OwnHistory: 1}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(set.Images[0].Config), `"diff_ids":[]`) || !strings.Contains(string(set.Images[0].Manifest), `"layers": []`) {
		t.Errorf("an image without layers: %s %s", set.Images[0].Config, set.Images[0].Manifest)
	}
}

func TestIndexAndAnnotations(t *testing.T) {
	arm := testSpec()
	arm.Platform = ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	var as Annotations
	for _, s := range []string{"all=1", "manifest[linux/arm64]:all=2", "index,manifest-descriptor:i=x=y", "index-descriptor:d=e"} {
		a, err := ParseAnnotation(s)
		if err != nil {
			t.Fatal(err)
		}
		as = append(as, a...)
	}
	set, err := Assemble([]Spec{testSpec(), arm}, Options{Annotations: as})
	if err != nil {
		t.Fatal(err)
	}
	var ix ocispec.Index
	if err := json.Unmarshal(set.Index, &ix); err != nil {
		t.Fatal(err)
	}
	if len(ix.Manifests) != 2 || ix.Annotations["i"] != "x=y" || ix.Manifests[1].Annotations["i"] != "x=y" || set.Descriptor.Annotations["d"] != "e" {
		t.Errorf("index %s, descriptor %+v", set.Index, set.Descriptor)
	}
	if ix.Manifests[1].Platform.Variant != "" || ix.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("platform %+v", ix.Manifests[1].Platform)
	}
	for i, want := range []string{"1", "2"} {
		var m ocispec.Manifest
		if err := json.Unmarshal(set.Images[i].Manifest, &m); err != nil {
			t.Fatal(err)
		}
		if m.Annotations["all"] != want {
			t.Errorf("manifest %d has %v, want all=%s", i, m.Annotations, want)
		}
	}
	if set.ConfigDigest() != "" {
		t.Error("an index has no config digest")
	}
}

func TestAssembleErrors(t *testing.T) {
	noOS := testSpec()
	noOS.Config.OS = ""
	short := testSpec()
	short.Layers = short.Layers[:1]
	zstd := testSpec()
	zstd.Layers[0].Descriptor.MediaType = ocispec.MediaTypeImageLayerZstd
	odd := testSpec()
	odd.Base[0].Descriptor.MediaType = "text/html"
	ann := func(s string) Options {
		a, err := ParseAnnotation(s)
		if err != nil {
			t.Fatal(err)
		}
		return Options{Annotations: a}
	}
	for _, tt := range []struct {
		name string
		in   []Spec
		o    Options
		want string
	}{
		{"nothing", nil, Options{}, "no platform"},
		{"no os", []Spec{noOS}, Options{}, "no os"},
		{"a layer is missing", []Spec{short}, Options{}, "names 2 new layers, 1 were made"},
		{"zstd as docker", []Spec{zstd}, Options{DockerMediaTypes: true}, "zstd layers need OCI"},
		{"media type", []Spec{odd}, Options{}, "unknown media type"},
		{"twice", []Spec{testSpec(), testSpec()}, Options{}, "there twice"},
		{"index annotation", []Spec{testSpec()}, ann("index:a=b"), "no index"},
		{"other platform", []Spec{testSpec()}, ann("manifest[linux/s390x]:a=b"), "nothing is built for linux/s390x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Assemble(tt.in, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestDockerMediaTypes(t *testing.T) {
	set, err := Assemble([]Spec{testSpec()}, Options{DockerMediaTypes: true})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(set.Images[0].Manifest, []byte("vnd.oci")) {
		t.Errorf("OCI and Docker types are mixed: %s", set.Images[0].Manifest)
	}
}

func TestParseAnnotationErrors(t *testing.T) {
	for _, s := range []string{"", "a", "=b", "manifest:=b", "nope:a=b", "index[linux/amd64]:a=b", "manifest[:a=b", "manifest[a/b/c/d]:a=b"} {
		if _, err := ParseAnnotation(s); err == nil {
			t.Errorf("ParseAnnotation(%q) gave no error", s)
		}
	}
	a, ok, err := ParseAnnotationAttr("annotation-manifest-descriptor[linux/arm/v6].org.x", "v")
	if err != nil || !ok || a.Level != LevelManifestDescriptor || a.Platform.Variant != "v6" || a.Key != "org.x" {
		t.Errorf("%+v %v %v", a, ok, err)
	}
	if _, ok, _ := ParseAnnotationAttr("annotate", "v"); ok {
		t.Error("annotate is no annotation")
	}
}
