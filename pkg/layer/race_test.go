package layer

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cairn-build/cairn/test/attack"
	"github.com/cairn-build/cairn/test/torture"
)

// racing is a layer that comes back to its directories by every kind of entry, and in the end puts a file in the place of one.
func racing() []raw {
	entries := []raw{rd("d"), rd("d/dir"), rf("d/x", "mine"), rf("d/dir/x", "mine"), rf("d/dir/passwd", "mine")}
	for i := range 20 {
		r := rf(fmt.Sprintf("d/dir/f%d", i), "mine")
		r.Uid = 7
		entries = append(entries, r, rl(fmt.Sprintf("d/l%d", i), "x"), rh(fmt.Sprintf("d/h%d", i), r.Name))
	}
	return append(entries, rf("d/dir", "a file now"))
}

// Somebody exchanges the directories of the layer for a symlink to the outside, again and again, while it is unpacked.
func TestUnpackA3Race(t *testing.T) {
	rounds := torture.Times(100, 2000)
	blob := rawTar(t, racing()...)
	for name, unpack := range map[string]func(context.Context, string) error{
		"as it is": func(ctx context.Context, dir string) error {
			_, err := Unpack(ctx, bytes.NewReader(blob), layerOf(blob), dir, nil, Limits{})
			return err
		},
		"contents": func(ctx context.Context, dir string) error {
			_, err := UnpackContents(ctx, bytes.NewReader(blob), layerOf(blob), dir, nil, Limits{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, dir := newCanary(t)
			x := attack.Exchange(t, dir, c.Outside)
			won := 0
			for i := range rounds {
				now := filepath.Join(dir, fmt.Sprint(i))
				must(t, os.Mkdir(now, 0o755))
				x.At(now+"/d", now+"/d/dir")
				if unpack(t.Context(), now) == nil {
					won++
				}
			}
			x.Stop()
			c.Check(t)
			torture.Figure(t, "T3", "%d layers unpacked (%s) while their directories were exchanged for links to the outside (%d came through undisturbed): nothing outside changed",
				rounds, name, won)
		})
	}
}

// Somebody exchanges directories of a tree for a symlink to the outside while a layer is made of it, as of a cache mount that is exported.
func TestDiffRace(t *testing.T) {
	rounds := torture.Times(200, 2000)
	c, dir := newCanary(t)
	tree := filepath.Join(dir, "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "d/dir"), 0o755))
	for _, name := range []string{"x", "d/x", "d/dir/x", "d/dir/passwd"} {
		must(t, os.WriteFile(filepath.Join(tree, name), []byte("mine"), 0o644))
	}
	x := attack.Exchange(t, dir, c.Outside)
	x.At(tree+"/d", tree+"/d/dir")
	won := 0
	for range rounds {
		var b bytes.Buffer
		w, err := NewWriter(&b, Compression{Type: "uncompressed"})
		must(t, err)
		if err := Diff(t.Context(), tree, nil, w); err == nil {
			won++
		}
		_, _, _, _ = w.Close()
		if bytes.Contains(b.Bytes(), []byte(attack.Secret)) {
			t.Fatal("a file from outside is in the layer")
		}
	}
	x.Stop()
	c.Check(t)
	torture.Figure(t, "T3", "%d layers made of a tree while its directories were exchanged for links to the outside (%d came through): nothing outside was in them", rounds, won)
}
