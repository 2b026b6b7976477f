package export

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// rootfs is the root filesystem of one platform.
type rootfs struct {
	// dir is the directory it goes to, "." or one for the platform ("linux_amd64").
	dir  string
	tree layer.Tree
}

// rootfses returns the root filesystems to be written. With several platforms each has a directory, as docker buildx does
// it; platform-split says it explicitly.
func (e *exporter) rootfses(ctx context.Context) ([]rootfs, error) {
	split := e.flag(attrPlatformSplit, len(e.Images) > 1)
	if !split && len(e.Images) > 1 {
		return nil, fmt.Errorf("platform-split=false: the files of %d platforms would overwrite each other", len(e.Images))
	}
	var out []rootfs
	for _, s := range e.Images {
		layers := append([]layer.Layer(nil), s.Base...)
		for _, l := range s.Layers {
			layers = append(layers, l.Layer)
		}
		t, err := e.Tree(ctx, layers)
		if err != nil {
			return nil, err
		}
		r := rootfs{dir: ".", tree: t}
		if split {
			p := s.Platform
			if p.OS == "" {
				p = ocispec.Platform{OS: s.Config.OS, Architecture: s.Config.Architecture, Variant: s.Config.Variant}
			}
			r.dir = strings.NewReplacer("/", "_", `\`, "_", ":", "_").Replace(platforms.FormatAll(platforms.Normalize(p)))
		}
		out = append(out, r)
	}
	return out, nil
}

// walk calls f for every entry below dir in the order of a layer, the directory itself not included. All entries have the time of
// SOURCE_DATE_EPOCH if there is one.
func (e *exporter) walk(ctx context.Context, t layer.Tree, dir string, f func(layer.Entry) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for en, err := range t.ReadDir(dir) {
		if err != nil {
			return fmt.Errorf("reading directory %s: %w", dir, err)
		}
		if e.Epoch != nil {
			en.ModTime = *e.Epoch
		}
		if err := f(en); err != nil {
			return err
		}
		if en.Type == layer.Dir {
			if err := e.walk(ctx, t, en.Path, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeRootfs writes the root filesystem as an uncompressed tarball, with owners, modes, hard links, devices and extended
// attributes.
func (e *exporter) writeRootfs(ctx context.Context, w io.Writer) error {
	all, err := e.rootfses(ctx)
	if err != nil {
		return err
	}
	lw, err := layer.NewWriter(w, layer.Compression{Type: "uncompressed"})
	if err != nil {
		return err
	}
	lw.Temp = e.Store.TempFile
	slices.SortFunc(all, func(a, b rootfs) int { return strings.Compare(a.dir, b.dir) })
	for _, r := range all {
		if r.dir != "." {
			top := layer.Entry{Path: r.dir, Type: layer.Dir, Mode: 0o755}
			if e.Epoch != nil {
				top.ModTime = *e.Epoch
			}
			if err := lw.Add(top, nil); err != nil {
				return err
			}
		}
		links := linker{}
		err := e.walk(ctx, r.tree, ".", func(en layer.Entry) error {
			name := en.Path
			first, err := links.first(r.tree, en)
			if err != nil {
				return err
			}
			en.Path, en.Opaque = path.Join(r.dir, name), false
			it := layer.Item{Entry: en}
			switch {
			case first != "":
				it.Entry = layer.Entry{Path: en.Path, Type: layer.Hardlink, Linkname: path.Join(r.dir, first), ModTime: en.ModTime,
					Mode: en.Mode, UID: en.UID, GID: en.GID}
			case en.Type == layer.File:
				it.Open = func() (io.ReadCloser, error) { return r.tree.Open(name) }
			}
			return layer.WriteItem(ctx, lw, it)
		})
		if err != nil {
			return err
		}
	}
	_, _, _, err = lw.Close()
	return err
}

// linker finds the hard links of a tree.
type linker map[string]string

// first returns the name under which the file of en was seen before, "" if this is its first.
func (l linker) first(t layer.Tree, en layer.Entry) (string, error) {
	if en.Type == layer.Dir {
		return "", nil
	}
	id, err := t.LinkID(en.Path)
	if err != nil {
		return "", fmt.Errorf("looking for hard links of %s: %w", en.Path, err)
	}
	if id == "" {
		return "", nil
	}
	if name, ok := l[id]; ok {
		return name, nil
	}
	l[id] = en.Path
	return "", nil
}
