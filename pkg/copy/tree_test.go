package copy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/opencontainers/go-digest"
)

// memTree is a layer.Tree in memory.
type memTree struct {
	entries map[string]layer.Entry
	data    map[string][]byte
	links   map[string]string
}

var epoch = time.Unix(1_000_000_000, 0)

// tree makes a memTree of lines, one entry each:
//
//	dir/ [mode] [uid:gid]
//	file=content [mode] [uid:gid] [@seconds] [#linkID] [+xattr=value]
//	link->target
//	dev!c1:3  fifo!p
//
// Missing parents are made with mode 0755.
func tree(t testing.TB, lines ...string) *memTree {
	t.Helper()
	m := &memTree{entries: map[string]layer.Entry{}, data: map[string][]byte{}, links: map[string]string{}}
	m.entries["."] = layer.Entry{Path: ".", Type: layer.Dir, Mode: 0o755, ModTime: epoch}
	for _, l := range lines {
		m.add(t, l)
	}
	return m
}

func (m *memTree) add(t testing.TB, line string) {
	t.Helper()
	fields := strings.Fields(line)
	e := layer.Entry{ModTime: epoch}
	var data []byte
	what := fields[0]
	switch {
	case strings.HasSuffix(what, "/"):
		e.Path, e.Type, e.Mode = strings.TrimSuffix(what, "/"), layer.Dir, 0o755
	case strings.Contains(what, "->"):
		e.Type, e.Mode = layer.Symlink, 0o777
		e.Path, e.Linkname, _ = strings.Cut(what, "->")
	case strings.Contains(what, "!"):
		kind := ""
		e.Path, kind, _ = strings.Cut(what, "!")
		e.Type, e.Mode = layer.Type(kind[0]), 0o600
		if _, err := fmt.Sscanf(kind[1:], "%d:%d", &e.Devmajor, &e.Devminor); err != nil && len(kind) > 1 {
			t.Fatal(err)
		}
	default:
		content := ""
		e.Path, content, _ = strings.Cut(what, "=")
		data = []byte(content)
		e.Type, e.Mode, e.Size = layer.File, 0o644, int64(len(data))
	}
	for _, f := range fields[1:] {
		switch {
		case f[0] == '@':
			s, err := strconv.ParseInt(f[1:], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			e.ModTime = time.Unix(s, 0)
		case f[0] == '#':
			m.links[e.Path] = f
		case f[0] == '+':
			k, v, _ := strings.Cut(f[1:], "=")
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[k] = v
		case strings.Contains(f, ":"):
			if _, err := fmt.Sscanf(f, "%d:%d", &e.UID, &e.GID); err != nil {
				t.Fatal(err)
			}
		default:
			mode, err := strconv.ParseInt(f, 8, 64)
			if err != nil {
				t.Fatal(err)
			}
			e.Mode = mode
		}
	}
	for d := path.Dir(e.Path); d != "."; d = path.Dir(d) {
		if _, ok := m.entries[d]; !ok {
			m.entries[d] = layer.Entry{Path: d, Type: layer.Dir, Mode: 0o755, ModTime: epoch}
		}
	}
	m.entries[e.Path] = e
	m.data[e.Path] = data
}

func (m *memTree) Lstat(name string) (layer.Entry, error) {
	e, ok := m.entries[name]
	if !ok {
		return e, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

func (m *memTree) ReadDir(name string) iter.Seq2[layer.Entry, error] {
	return layertest.Each(m.readDir(name))
}

func (m *memTree) readDir(name string) ([]layer.Entry, error) {
	if e, err := m.Lstat(name); err != nil || e.Type != layer.Dir {
		return nil, fmt.Errorf("readdir %s: %v", name, err)
	}
	var out []layer.Entry
	for p, e := range m.entries {
		if p != "." && path.Dir(p) == name {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b layer.Entry) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

func (m *memTree) Open(name string) (io.ReadCloser, error) {
	if _, err := m.Lstat(name); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(m.data[name])), nil
}

func (m *memTree) Digest(_ context.Context, name string) (digest.Digest, error) {
	if _, err := m.Lstat(name); err != nil {
		return "", err
	}
	return digest.FromBytes(m.data[name]), nil
}

func (m *memTree) LinkID(name string) (string, error) { return m.links[name], nil }

func itemsOf(t testing.TB, res *Result) []layer.Item {
	t.Helper()
	items, err := res.Items()
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// nameless makes nameless files in a directory.
func nameless(dir string) func() (*os.File, error) {
	return func() (*os.File, error) {
		f, err := os.CreateTemp(dir, "")
		if err != nil {
			return nil, err
		}
		return f, os.Remove(f.Name())
	}
}

// show renders items one a line, sorted by path, in the syntax of tree; what is the default there is left out.
func show(t testing.TB, items []layer.Item) string {
	t.Helper()
	var lines []string
	for _, it := range items {
		var b strings.Builder
		b.WriteString(it.Path)
		def := int64(0o644)
		switch it.Type {
		case layer.Dir:
			def = 0o755
			b.WriteString("/")
		case layer.Symlink:
			def = 0o777
			b.WriteString("->" + it.Linkname)
		case layer.Hardlink:
			b.WriteString("=>" + it.Linkname)
		case layer.File:
			f, err := it.Open()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(f)
			if err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
			if int64(len(data)) != it.Size {
				t.Errorf("%s: size %d, content %q", it.Path, it.Size, data)
			}
			b.WriteString("=" + string(data))
		default:
			def = 0o600
			fmt.Fprintf(&b, "!%c", it.Type)
			if it.Type != layer.Fifo {
				fmt.Fprintf(&b, "%d:%d", it.Devmajor, it.Devminor)
			}
		}
		if it.Mode != def {
			fmt.Fprintf(&b, " %04o", it.Mode)
		}
		if it.UID != 0 || it.GID != 0 {
			fmt.Fprintf(&b, " %d:%d", it.UID, it.GID)
		}
		for k, v := range it.Xattrs {
			b.WriteString(" +" + k + "=" + v)
		}
		if it.Opaque {
			b.WriteString(" opaque")
		}
		lines = append(lines, b.String())
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}
