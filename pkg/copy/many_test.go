package copy

import (
	"fmt"
	"io"
	"testing"

	"github.com/cairn-build/cairn/pkg/layer"
)

// A COPY of more files than are looked at at once is of all of them.
func TestManyFiles(t *testing.T) {
	const n = 2*batchSize + 10
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("f%05d=%d", i, i)
	}
	src := tree(t, lines...)
	req := Request{Sources: []Source{{Tree: src, Path: "."}}, Dest: "/to/", Time: epoch}
	whole, files, err := Inventory(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	list := map[string][8]byte{}
	for _, f := range files() {
		list[f.Name] = f.Sum
	}
	if len(list) != n+1 { // with the directory itself
		t.Errorf("%d files are listed", len(list))
	}
	for _, i := range []int{0, batchSize, n - 1} {
		name := fmt.Sprintf("f%05d", i)
		old := src.data[name]
		src.data[name] = []byte("other")
		d, files, err := Inventory(t.Context(), req)
		if err != nil || d == whole {
			t.Errorf("with another %s the key is %s, %v", name, d, err)
		}
		for _, f := range files() {
			if (f.Sum != list[f.Name]) != (f.Name == name) {
				t.Errorf("with another %s, %s is listed as changed, or is not", name, f.Name)
			}
		}
		src.data[name] = old
	}
	if d, _, err := Inventory(t.Context(), req); err != nil || d != whole {
		t.Errorf("with all as before the key is %s, %v, not %s", d, err, whole)
	}

	res, err := Entries(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	w, err := layer.NewWriter(io.Discard, layer.Compression{Type: "uncompressed"})
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Write(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	_, _, ix, err := w.Close()
	if err != nil || ix.Len() != n+1 {
		t.Errorf("the layer has %d entries, %v", ix.Len(), err)
	}
}
