package cache

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	st := newStore(t)
	c := New(st).For(Build{Project: "p"})
	l := putLayer(t, st, "layer")
	place := Place{Platform: "linux/amd64", Stage: "build", Number: 1, Name: "[build 2/3] RUN x"}
	in := func(pairs ...string) (out []Input) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, Input{pairs[i], pairs[i+1]})
		}
		return out
	}
	base := func(v string) Input { return Input{"base image", v} }
	files := func(k Key, list ...string) Key {
		return k.WithFiles(func(most int) (out []File, ok bool) {
			for i := 0; i < len(list); i += 2 {
				out = append(out, File{list[i], [8]byte([]byte(list[i+1] + "        "))})
			}
			return out, len(out) <= most
		})
	}
	old := NewKey("run", in("root", "r1", "arg", "make", "env", "A=1", "env", "B=2", "mount", "m")...).At(place).WithNotes(base("debian@1"))
	if r := c.Explain(t.Context(), old); r.Known || r.String() != "no such step was recorded before" {
		t.Errorf("before anything: %v", r)
	}
	copied := files(NewKey("copy", in("root", "r1", "content", "c1")...), "a", "1", "dir/b", "1", "dir/c", "1").
		At(Place{Platform: "linux/amd64", Stage: "build", Number: 4})
	for _, k := range []Key{old, copied} {
		if err := c.Put(t.Context(), k, Record{Layer: l}); err != nil {
			t.Fatal(err)
		}
	}
	// What a build has recorded itself explains nothing to it: it is not what it found.
	next := NewKey("run", in("root", "r3", "arg", "make install")...).At(Place{Platform: "linux/amd64", Stage: "build", Number: 2})
	if r := c.Explain(t.Context(), next); r.Known {
		t.Errorf("by the same build: %v", r)
	}
	c = c.For(Build{Project: "p"})
	changed := NewKey("run", in("root", "r1", "arg", "make", "env", "A=9", "env", "B=2", "mount", "m")...).At(place)
	if err := c.Put(t.Context(), changed, Record{Layer: l}); err != nil { // nor to later steps of the next one
		t.Fatal(err)
	}
	moved, far, foreign := place, place, place
	moved.Number, far.Number, foreign.Stage = 2, 20, "other"
	many := []string{}
	for i := range 30 {
		many = append(many, fmt.Sprintf("new%02d", i), "1")
	}
	for name, test := range map[string]struct {
		key  Key
		want string
	}{
		"same":      {old, "nothing changed, but its record, or the layer that it names, is not to be had any more"},
		"value":     {NewKey("run", in("root", "r1", "arg", "make", "env", "A=1", "env", "B=3", "mount", "m")...).At(place), "variable B (ENV or ARG) changed"},
		"a line up": {NewKey("run", in("root", "r1", "arg", "make", "env", "A=1", "env", "B=3", "mount", "m")...).At(moved), "variable B (ENV or ARG) changed"},
		"added in the middle": {
			NewKey("run", in("root", "r1", "arg", "make", "env", "A=1", "env", "AA=1", "env", "B=2", "mount", "m")...).At(place),
			"variable AA (ENV or ARG) is new",
		},
		"removed": {
			NewKey("run", in("root", "r2", "arg", "make all", "env", "A=1")...).At(place),
			`what it stands on changed: an earlier step gave another result; the command changed; variable B (ENV or ARG) is gone; the option "mount" of a mount is gone`,
		},
		"base": {
			NewKey("run", in("root", "r2", "arg", "make", "env", "A=1", "env", "B=2", "mount", "m")...).At(place).WithNotes(base("debian@2")),
			"the base image changed: debian@2, was debian@1",
		},
		"another kind": {NewKey("workdir").At(place), "no such step was recorded before"},
		"too far":      {old.At(far), "no such step was recorded before"},
		"other stage":  {old.At(foreign), "no such step was recorded before"},
		"files": {
			files(NewKey("copy", in("root", "r1", "content", "c2")...), "a", "2", "dir/c", "1", "e", "1").At(copied.place),
			`file "a" changed, "dir/b" is gone, "e" is new`,
		},
		"many files": {
			files(NewKey("copy", in("root", "r1", "content", "c2")...), append(many, "a", "1", "dir/b", "1", "dir/c", "1")...).At(copied.place),
			`file "new00" is new, "new01" is new, "new02" is new, "new03" is new, "new04" is new, "new05" is new, "new06" is new, ` +
				`"new07" is new, "new08" is new, "new09" is new, and 20 more`,
		},
		"files not known": {NewKey("copy", in("root", "r1", "content", "c2")...).At(copied.place), "the files it uses changed"},
	} {
		if got := c.Explain(t.Context(), test.key).String(); got != test.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if r := New(st).For(Build{Project: "q"}).Explain(t.Context(), old); r.Known {
		t.Errorf("another project: %v", r)
	}
	// What is kept for explanations keeps no blob alive and contains no value.
	data, err := st.Record(positionsBucket, c.position(place))
	if err != nil || strings.Contains(string(data), "A=1") || strings.Contains(string(data), "sha256:") {
		t.Errorf("%s, %v", data, err)
	}
}

func TestPackFiles(t *testing.T) {
	var files []File
	for i := range 5000 {
		files = append(files, File{Name: fmt.Sprintf("src/pkg%d/file%d.go", i%70, i), Sum: [8]byte([]byte(sumValue(fmt.Sprint(i))))})
	}
	packed := packFiles(slices.Clone(files))
	got, err := unpackFiles(packed)
	if err != nil || len(got) != len(files) {
		t.Fatalf("%d files, %v", len(got), err)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	if !slices.Equal(got, files) {
		t.Error("other files came back")
	}
	t.Logf("%d bytes for %d files", len(packed), len(files))
	if packFiles(make([]File, maxFiles+1)) != nil {
		t.Error("more files than are kept")
	}
	for n := range packed {
		if got, err := unpackFiles(packed[:n]); err == nil && len(got) == len(files) {
			t.Fatalf("cut to %d: no error", n)
		}
		if n == 200 {
			break
		}
	}
}
