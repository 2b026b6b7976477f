package export

import (
	"io"
	"maps"
	"os"
	"strings"
	"testing"
)

func TestParseOutput(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Output
	}{
		{"out", Output{Type: TypeLocal, Dest: "out"}},
		{"./a=b", Output{Type: TypeLocal, Dest: "./a=b"}},
		{"-", Output{Type: TypeTar, Dest: "-"}},
		{"type=registry", Output{Type: TypeRegistry}},
		{"type=image,push=true", Output{Type: TypeImage, Attrs: map[string]string{"push": "true"}}},
		{"type=oci,dest=-", Output{Type: TypeOCI, Dest: "-"}},
		{"TYPE=oci,Dest=x y.tar,tar=false", Output{Type: TypeOCI, Dest: "x y.tar", Attrs: map[string]string{"tar": "false"}}},
		{`type=image,"name=a,b:v1"`, Output{Type: TypeImage, Attrs: map[string]string{"name": "a,b:v1"}}},
		{"type=docker,dest=x,compression=zstd,compression-level=19,force-compression=true",
			Output{Type: TypeDocker, Dest: "x", Attrs: map[string]string{"compression": "zstd", "compression-level": "19", "force-compression": "true"}}},
		{"type=oci,dest=x,annotation.a.B=c,annotation-index.x=y", Output{Type: TypeOCI, Dest: "x",
			Attrs: map[string]string{"annotation.a.B": "c", "annotation-index.x": "y"}}},
	} {
		got, err := ParseOutput(tt.in)
		if err != nil {
			t.Errorf("ParseOutput(%q): %v", tt.in, err)
			continue
		}
		if got.Type != tt.want.Type || got.Dest != tt.want.Dest || !maps.Equal(got.Attrs, tt.want.Attrs) {
			t.Errorf("ParseOutput(%q) = %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func TestParseOutputErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                                "empty",
		"type=":                           "type= is missing",
		"dest=x,tar=true":                 "type= is missing",
		"type=imge":                       "did you mean image?",
		"type=oci,dest=x,compresion=zstd": "did you mean compression?",
		"type=oci,dest=x,compression=estargz,oci-mediatypes=false": "conflicts",
		"type=oci,dest=x,compression=estargz,compression-level=12": "want 1 to 9",
		"type=oci,dest=x,compression=gzp":                          "did you mean gzip?",
		"type=oci,dest=x,compression=gzip,compression-level=10":    "want 1 to 9",
		"type=oci,dest=x,compression-level=x":                      "want a number",
		"type=oci,dest=x,compression=zstd,oci-mediatypes=false":    "conflicts",
		"type=oci,dest=x,tar=maybe":                                "want true or false",
		"type=oci,dest=x,dest=y":                                   "given twice",
		"type=oci,dest=-,tar=false":                                "standard output",
		"type=oci":                                                 "needs dest=FILE",
		"type=docker":                                              "needs dest=FILE",
		"type=local":                                               "needs dest=DIRECTORY",
		"type=local,dest=-":                                        "needs dest=DIRECTORY",
		"type=local,dest=x,name=y":                                 "unknown attribute name",
		"type=registry,push=false":                                 "contradicts",
		"type=registry,dest=x":                                     "has no dest",
		"type=image,name=UPPER":                                    "reading image name",
		"type=image,annotation-nope.a=b":                           "is no level",
		"type=tar,dest=x,annotation.a=b":                           "unknown attribute",
		"type=oci,dest":                                            "not KEY=VALUE",
		"type=oci\ntype=tar":                                       "more than one line",
		"type=oci,\"dest=x":                                        "reading output",
	} {
		_, err := ParseOutput(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseOutput(%q): error %v, want %q in it", in, err, want)
		}
	}
}

func FuzzParseOutput(f *testing.F) {
	for _, s := range []string{"out", "-", "type=oci,dest=x", `type=image,"name=a,b"`, "type=image,annotation[linux/amd64].a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		_, _ = ParseOutput(s) // must not panic
	})
}

func TestCheck(t *testing.T) {
	parse := func(ss ...string) []Output {
		var out []Output
		for _, s := range ss {
			o, err := ParseOutput(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, o)
		}
		return out
	}
	for _, tt := range []struct {
		name  string
		outs  []Output
		names []string
		n     int
		want  string
	}{
		{"fine", parse("type=registry", "type=oci,dest=-"), []string{"a"}, 2, ""},
		{"own name", parse("type=registry,name=a"), nil, 1, ""},
		{"no name", parse("type=image,push=true"), nil, 1, "needs a name"},
		{"docker", parse("type=docker,dest=x"), nil, 2, "type=oci holds several"},
		{"twice stdout", parse("-", "type=oci,dest=-"), nil, 1, "several outputs"},
		{"unchecked", []Output{{Type: "x"}}, nil, 1, "unknown type"},
	} {
		err := Check(tt.outs, tt.names, tt.n, io.Discard)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.want)
		}
	}
}

// A terminal is refused; /dev/ptmx is one.
func TestRefuseTerminal(t *testing.T) {
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	err = Check([]Output{{Type: TypeTar, Dest: Stdout}}, nil, 1, tty)
	if err == nil || !strings.Contains(err.Error(), "terminal") {
		t.Errorf("error %v", err)
	}
}
