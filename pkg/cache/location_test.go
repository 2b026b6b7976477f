package cache

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseLocation(t *testing.T) {
	abs, err := filepath.Abs("dir")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		parse func(string) (Location, error)
		text  string
		want  Location
		err   string
	}{
		{ParseExport, "app", Location{Type: TypeRegistry, Ref: "docker.io/library/app:latest", Mode: ModeMin, Tag: "latest"}, ""},
		{ParseExport, "type=registry,ref=h:5000/a/b:c,mode=max", Location{Type: TypeRegistry, Ref: "h:5000/a/b:c", Mode: ModeMax, Tag: "latest"}, ""},
		{ParseExport, `type=registry,"ref=h.io/a",IGNORE-ERROR=true,image-manifest=true,oci-mediatypes=true`,
			Location{Type: TypeRegistry, Ref: "h.io/a:latest", Mode: ModeMin, Tag: "latest", IgnoreError: true}, ""},
		{ParseExport, "type=inline", Location{Type: TypeInline, Mode: ModeMin, Tag: "latest"}, ""},
		{ParseExport, "type=local,dest=dir,tag=x", Location{Type: TypeLocal, Dir: abs, Mode: ModeMin, Tag: "x"}, ""},
		{ParseImport, "type=local,src=dir", Location{Type: TypeLocal, Dir: abs, Mode: ModeMin, Tag: "latest"}, ""},
		{ParseImport, "h.io/a@sha256:" + strings.Repeat("ab", 32),
			Location{Type: TypeRegistry, Ref: "h.io/a@sha256:" + strings.Repeat("ab", 32), Mode: ModeMin, Tag: "latest"}, ""},
		{ParseMountExport, "type=registry,ref=h.io/a,id=x,id=y", Location{Type: TypeRegistry, Ref: "h.io/a:latest", Mode: ModeMin, Tag: "latest", IDs: []string{"x", "y"}}, ""},

		{ParseExport, "", Location{}, "it is empty"},
		{ParseExport, "ref=x", Location{}, "type= is missing"},
		{ParseExport, "type=regisrty,ref=x", Location{}, "(hint: did you mean registry?)"},
		{ParseExport, "type=gha", Location{}, `unknown type "gha"; there are inline, local, registry`},
		{ParseImport, "type=inline", Location{}, `unknown type "inline"`},
		{ParseExport, "type=registry,ref=x,mod=max", Location{}, "unknown key mod of type=registry (hint: did you mean mode?)"},
		{ParseImport, "type=registry,ref=x,mode=max", Location{}, "unknown key mode"},
		{ParseExport, "type=registry,ref=x,mode=all", Location{}, "there are min and max"},
		{ParseExport, "type=registry,ref=x,compression=zstd", Location{}, "unknown key compression"},
		{ParseExport, "type=registry,ref=x,oci-mediatypes=false", Location{}, "always OCI image manifests"},
		{ParseExport, "type=registry,ref=x,ignore-error=maybe", Location{}, "want true or false"},
		{ParseExport, "type=registry", Location{}, "needs ref="},
		{ParseExport, "type=registry,ref=UPPER", Location{}, "ref=UPPER"},
		{ParseExport, "type=local", Location{}, "needs dest="},
		{ParseImport, "type=local,dest=x", Location{}, "unknown key dest"},
		{ParseImport, "type=local,src=x,digest=sha256:zz", Location{}, "want sha256:HEX"},
		{ParseExport, "type=registry,ref=x,ref=y", Location{}, "ref is given twice"},
		{ParseExport, "type=registry,ref=x,id=y", Location{}, "unknown key id"},
		{ParseExport, "type=registry,x", Location{}, `"x" is not KEY=VALUE`},
		{ParseExport, `type="registry`, Location{}, "quote"},
	} {
		got, err := test.parse(test.text)
		switch {
		case test.err == "" && (err != nil || !reflect.DeepEqual(got, test.want)):
			t.Errorf("%s: %+v, %v", test.text, got, err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: %+v, %v", test.text, got, err)
		}
	}
}

func FuzzParseArtifact(f *testing.F) {
	f.Add([]byte(`{"version":1,"layers":[],"records":[]}`))
	f.Add([]byte(`{"version":1,"layers":[{"diffID":"sha256:` + strings.Repeat("a", 64) + `","blob":{"mediaType":"x","digest":"sha256:` +
		strings.Repeat("b", 64) + `","size":3}}],"records":[{"key":"sha256:` + strings.Repeat("c", 64) + `","layer":0}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parseArtifact(data)
		if err != nil {
			return
		}
		for _, r := range doc.Records {
			if b := doc.Layers[r.Layer].Blob; b == nil || b.Size < 0 || b.Digest.Validate() != nil || r.Key.Validate() != nil {
				t.Errorf("%+v", r)
			}
		}
	})
}
