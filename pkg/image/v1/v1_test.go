package v1_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/image"
	v1 "github.com/cairn-build/cairn/pkg/image/v1"
	"github.com/opencontainers/go-digest"
)

func TestCreateID(t *testing.T) {
	created := time.Unix(1, 0).UTC()
	img := image.V1Image{ID: "not part of it", OS: "linux", Created: &created}
	layer, parent := digest.FromString("layer"), digest.FromString("parent")
	id := func(img image.V1Image, layer, parent digest.Digest) digest.Digest {
		t.Helper()
		d, err := v1.CreateID(img, layer, parent)
		if err != nil || v1.ValidateID(d.Encoded()) != nil {
			t.Fatal(d, err)
		}
		return d
	}
	base := id(img, layer, parent)
	same := img
	same.ID = "another"
	if id(same, layer, parent) != base {
		t.Error("the old ID is part of the new one")
	}
	other := img
	other.Author = "somebody"
	for what, d := range map[string]digest.Digest{
		"author": id(other, layer, parent), "layer": id(img, parent, parent), "parent": id(img, layer, layer), "no parent": id(img, layer, ""),
	} {
		if d == base {
			t.Errorf("%s is no part of the ID", what)
		}
	}
}

func TestValidateID(t *testing.T) {
	good := strings.Repeat("0a", 32)
	if err := v1.ValidateID(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", good[1:], good + "0", strings.ToUpper(good), "sha256:" + good} {
		if v1.ValidateID(bad) == nil {
			t.Errorf("%q is valid", bad)
		}
	}
}
