package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const sampleConfig = `{"os":"linux","architecture":"arm","variant":"v7","os.version":"9","os.features":["f"],"author":"me","comment":"c",` +
	`"created":"2020-01-02T03:04:05Z","container":"abc","docker_version":"1","container_config":{"Cmd":["/bin/sh","-c","x"]},` +
	`"config":{"Env":["A=b"],"ExposedPorts":{"80/tcp":{}},"Labels":{"l":"v"}},"parent":"sha256:p","id":"old",` +
	`"history":[{"created":"2020-01-02T03:04:05Z","created_by":"RUN x"},{"created_by":"ENV A=b","empty_layer":true}],` +
	`"rootfs":{"type":"layers","diff_ids":["sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ee"]},"unknown":{"z":1}}`

func TestID(t *testing.T) {
	id := ID("sha256:" + strings.Repeat("a", 64))
	if id.String() != string(id) || id.Digest() != digest.Digest(id) {
		t.Errorf("String %q, Digest %q", id.String(), id.Digest())
	}
}

// TestImageFields: every field of V1Image and Image is read from the config, and the methods answer from them.
func TestImageFields(t *testing.T) {
	img, err := NewFromJSON([]byte(sampleConfig))
	if err != nil {
		t.Fatal(err)
	}
	if string(img.RawJSON()) != sampleConfig {
		t.Error("RawJSON is not what was read")
	}
	if want := ID(digest.FromString(sampleConfig)); img.ID() != want || img.ImageID() != want.String() {
		t.Errorf("ID %s, want %s", img.ID(), want)
	}
	if img.V1Image.ID != "old" || img.Parent != "sha256:p" || img.Comment != "c" || img.Container != "abc" || img.DockerVersion != "1" || img.Author != "me" {
		t.Errorf("V1 fields: %+v", img.V1Image)
	}
	if img.Created == nil || img.Created.Year() != 2020 || len(img.ContainerConfig.Cmd) != 3 || img.RunConfig().Env[0] != "A=b" || len(img.RunConfig().ExposedPorts) != 1 {
		t.Errorf("config: %+v %+v", img.ContainerConfig, img.RunConfig())
	}
	if len(img.History) != 2 || !img.History[1].EmptyLayer || len(img.RootFS.DiffIDs) != 1 {
		t.Errorf("history %+v, rootfs %+v", img.History, img.RootFS)
	}
	want := ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7", OSVersion: "9", OSFeatures: []string{"f"}}
	if got := img.Platform(); !reflect.DeepEqual(got, want) {
		t.Errorf("Platform %+v", got)
	}
	if img.BaseImgArch() != "arm" || img.BaseImgVariant() != "v7" || img.OperatingSystem() != "linux" {
		t.Error("BaseImgArch, BaseImgVariant or OperatingSystem")
	}
	none := &Image{}
	if none.BaseImgArch() != runtime.GOARCH || none.OperatingSystem() != runtime.GOOS || none.BaseImgVariant() != "" || none.RunConfig() != nil {
		t.Error("defaults of an empty image")
	}
}

func TestNewFromJSONErrors(t *testing.T) {
	for _, bad := range []string{"", "{", "null", "[]", "{}", `{"rootfs":null}`, `{"rootfs":7}`, `{"history":[]}`} {
		if img, err := NewFromJSON([]byte(bad)); err == nil {
			t.Errorf("%s was read: %+v", bad, img)
		}
	}
	_, err := NewFromJSON([]byte(`{}`))
	if err == nil || !strings.Contains(err.Error(), "invalid image JSON, no RootFS key") {
		t.Errorf("missing rootfs: %v", err)
	}
	var invalid interface{ InvalidParameter() }
	if !errors.As(err, &invalid) {
		t.Error("the error is not known as InvalidParameter")
	}
}

// TestMarshalJSONSortsKeys: reading what was written and writing it again gives the same bytes, with sorted keys.
func TestMarshalJSONSortsKeys(t *testing.T) {
	img, err := NewFromJSON([]byte(sampleConfig))
	if err != nil {
		t.Fatal(err)
	}
	first, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	dec := json.NewDecoder(bytes.NewReader(first))
	for depth := 0; ; {
		tok, err := dec.Token()
		if err != nil {
			break
		}
		switch v := tok.(type) {
		case json.Delim:
			if v == '{' || v == '[' {
				depth++
			} else {
				depth--
			}
		case string:
			if depth == 1 {
				keys = append(keys, v)
				var skip json.RawMessage
				if err := dec.Decode(&skip); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if len(keys) < 10 || !isSorted(keys) {
		t.Errorf("keys %v", keys)
	}
	again, err := NewFromJSON(first)
	if err != nil {
		t.Fatal(err)
	}
	second, err := json.Marshal(again)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("%v\n%s\n%s", err, first, second)
	}
}

func isSorted(s []string) bool {
	for i := 1; i < len(s); i++ {
		if s[i-1] > s[i] {
			return false
		}
	}
	return true
}

func TestNewImageAndClone(t *testing.T) {
	a, b := ID(digest.FromString("a")), ID(digest.FromString("b"))
	if img := NewImage(a); img.ID() != a {
		t.Errorf("NewImage: ID %s", img.ID())
	}
	base, err := NewFromJSON([]byte(sampleConfig))
	if err != nil {
		t.Fatal(err)
	}
	c := Clone(base, b)
	if c.ID() != b || c.V1Image.ID != b.String() || base.ID() == b || base.V1Image.ID != "old" {
		t.Errorf("IDs: clone %s %s, base %s", c.ID(), c.V1Image.ID, base.ID())
	}
	c.RootFS.DiffIDs[0] = "changed"
	c.RootFS.Append("more")
	if base.RootFS.DiffIDs[0] == "changed" || len(base.RootFS.DiffIDs) != 1 {
		t.Error("the clone shares its RootFS with the base")
	}
	if c := Clone(&Image{}, a); c.RootFS != nil || c.ID() != a {
		t.Error("clone of an image without RootFS")
	}
}

func TestNewChildImage(t *testing.T) {
	base, err := NewFromJSON([]byte(sampleConfig))
	if err != nil {
		t.Fatal(err)
	}
	run := &container.Config{Cmd: []string{"/bin/sh", "-c", "make"}}
	conf := &container.Config{Env: []string{"X=y"}}
	diff := digest.FromString("layer")
	child := NewChildImage(base, ChildConfig{
		ContainerID: "cid", Author: "you", Comment: "why", DiffID: diff, ContainerConfig: run, Config: conf,
	}, "linux")
	if len(child.RootFS.DiffIDs) != 2 || child.RootFS.DiffIDs[1] != diff || len(base.RootFS.DiffIDs) != 1 {
		t.Errorf("RootFS %v of base %v", child.RootFS.DiffIDs, base.RootFS.DiffIDs)
	}
	h := child.History[len(child.History)-1]
	if len(child.History) != 3 || len(base.History) != 2 || h.CreatedBy != "/bin/sh -c make" || h.EmptyLayer || h.Author != "you" || h.Comment != "why" {
		t.Errorf("history %+v", child.History)
	}
	if child.Created == nil || h.Created == nil || !child.Created.Equal(*h.Created) {
		t.Errorf("created %v, history %v", child.Created, h.Created)
	}
	if child.Architecture != "arm" || child.Variant != "v7" || child.OS != "linux" || child.OSVersion != "9" || child.OSFeatures[0] != "f" {
		t.Errorf("platform %+v", child.Platform())
	}
	if child.Config != conf || child.Container != "cid" || child.Author != "you" || len(child.ContainerConfig.Cmd) != 3 {
		t.Errorf("child %+v", child.V1Image)
	}
	for _, none := range []digest.Digest{emptyTar, ""} {
		child := NewChildImage(base, ChildConfig{DiffID: none, ContainerConfig: run, Config: conf}, "linux")
		if h := child.History[2]; len(child.RootFS.DiffIDs) != 1 || !h.EmptyLayer {
			t.Errorf("DiffID %q: %v, %+v", none, child.RootFS.DiffIDs, h)
		}
	}
	// Of two children of one image neither sees the other's history.
	one := NewChildImage(base, ChildConfig{Comment: "one"}, "linux")
	NewChildImage(base, ChildConfig{Comment: "two"}, "linux")
	if one.History[2].Comment != "one" {
		t.Error("children share their history")
	}
	if first := NewChildImage(&Image{}, ChildConfig{DiffID: diff}, "linux"); len(first.RootFS.DiffIDs) != 1 || first.RootFS.Type != TypeLayers || first.Architecture != runtime.GOARCH {
		t.Errorf("child of nothing: %+v", first)
	}
}

func TestEmptyTarDigest(t *testing.T) {
	if got := digest.FromBytes(make([]byte, 1024)); got != emptyTar {
		t.Errorf("%s, constant %s", got, emptyTar)
	}
}

func TestNewHistory(t *testing.T) {
	before := time.Now().Add(-time.Second)
	h := NewHistory("a", "c", "RUN x", true)
	if h.Author != "a" || h.Comment != "c" || h.CreatedBy != "RUN x" || !h.EmptyLayer || h.Created.Location() != time.UTC || h.Created.Before(before) {
		t.Errorf("%+v", h)
	}
	var _ ocispec.History = h // the same type
}

func TestRootFSChainID(t *testing.T) {
	r := NewRootFS()
	if r.Type != "layers" || r.ChainID() != "" {
		t.Errorf("%+v: ChainID %q", r, r.ChainID())
	}
	a, b := digest.FromString("a"), digest.FromString("b")
	r.Append(a)
	if r.ChainID() != a {
		t.Errorf("of one layer: %s", r.ChainID())
	}
	c := r.Clone()
	c.Append(b)
	// OCI image-spec, config.md: ChainID(L₀|L₁) = Digest(ChainID(L₀) + " " + DiffID(L₁))
	if want := digest.FromString(a.String() + " " + b.String()); c.ChainID() != want || r.ChainID() != a {
		t.Errorf("of two layers: %s, want %s; first %s", c.ChainID(), want, r.ChainID())
	}
	if c.DiffIDs[0] != a || c.DiffIDs[1] != b {
		t.Errorf("ChainID changed the DiffIDs: %v", c.DiffIDs)
	}
	data, err := json.Marshal(c)
	if want := `{"type":"layers","diff_ids":["` + a.String() + `","` + b.String() + `"]}`; err != nil || string(data) != want {
		t.Errorf("%s %v", data, err)
	}
}

func TestCheckOS(t *testing.T) {
	if err := CheckOS(runtime.GOOS); err != nil {
		t.Error(err)
	}
	if err := CheckOS(strings.ToUpper(runtime.GOOS)); err != nil {
		t.Error(err)
	}
	if CheckOS("plan9") == nil || CheckOS("") == nil {
		t.Error("other systems are accepted")
	}
}
