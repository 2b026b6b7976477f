// Package snapshottest is the suite that every snapshot.Snapshotter passes.
//
// Its oracle: whatever is committed is opened a second time by a snapshotter with an empty store that has only the blobs, and must be the same
// to the last bit of metadata. So a snapshot made of what a step wrote and one unpacked from the layer's tar cannot differ.
package snapshottest

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
)

// BlobFunc returns the compressed bytes of a layer.
type BlobFunc func(ctx context.Context, l layer.Layer) (io.ReadCloser, error)

// Maker makes the snapshotter under test over a store. Layers are fetched with blob.
type Maker func(t *testing.T, st *store.Store, blob BlobFunc) snapshot.Snapshotter

// Run runs the suite. The process must be allowed to mount, to change owners within 0 to 9999, and be alone in its mount namespace.
func Run(t *testing.T, mk Maker) {
	for name, test := range map[string]func(*testing.T, *env){
		"Scratch":         testScratch,
		"View":            testView,
		"Write":           testWrite,
		"Isolation":       testIsolation,
		"Whiteout":        testWhiteout,
		"Opaque":          testOpaque,
		"ChangeOfType":    testChangeOfType,
		"RenameDirectory": testRename,
		"HardLinks":       testHardLinks,
		"Modes":           testModes,
		"Metadata":        testMetadataOnly,
		"Xattrs":          testXattrs,
		"SpecialFiles":    testSpecialFiles,
		"RootDirectory":   testRootDirectory,
		"NothingChanged":  testNothingChanged,
		"StrangeNames":    testStrangeNames,
		"DeepChain":       testDeepChain,
		"ThroughSymlink":  testThroughSymlink,
		"OpenFile":        testOpenFile,
		"Concurrent":      testConcurrent,
		"Release":         testRelease,
		"BadLayer":        testBadLayer,
		"LostIndex":       testLostIndex,
		"Canceled":        testCanceled,
		"Reopen":          testReopen,
	} {
		t.Run(name, func(t *testing.T) { test(t, newEnv(t, mk)) })
	}
}

// env is one store with a snapshotter over it.
type env struct {
	mk Maker
	st *store.Store
	sn snapshot.Snapshotter
}

func newEnv(t *testing.T, mk Maker) *env {
	t.Helper()
	e := &env{mk: mk, st: openStore(t, filepath.Join(t.TempDir(), "store"))}
	e.sn = mk(t, e.st, e.blob)
	t.Cleanup(func() { e.checkLeftovers(t) })
	return e
}

func openStore(t *testing.T, root string) *store.Store {
	t.Helper()
	st, err := store.Open(root)
	must(t, err)
	t.Cleanup(func() { must(t, st.Close()) })
	return st
}

func (e *env) blob(_ context.Context, l layer.Layer) (io.ReadCloser, error) {
	return e.st.OpenBlob(l.Descriptor.Digest)
}

// checkLeftovers makes sure that nothing is mounted and nothing temporary is left once a test has released all it had.
func (e *env) checkLeftovers(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, e.st.Root()) {
			t.Errorf("still mounted: %s", line)
		}
	}
	left, err := filepath.Glob(filepath.Join(e.st.Root(), "tmp", "*", "*"))
	must(t, err)
	for _, path := range left {
		if filepath.Base(path) != "lock" { // the store's own
			t.Errorf("left: %s", path)
		}
	}
	for _, p := range e.st.Check(context.Background(), true) {
		t.Errorf("check: %v", p)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// epoch is the time of all entries that tests put into layers.
var epoch = time.Unix(1_700_000_000, 0).UTC()

// layerOf makes a layer of entries; content gives that of the files by path.
func (e *env) layerOf(t *testing.T, content map[string]string, entries ...layer.Entry) layer.Layer {
	t.Helper()
	blob, err := e.st.NewBlob(t.Context())
	must(t, err)
	defer blob.Abort()
	w, err := layer.NewWriter(blob, layer.Compression{})
	must(t, err)
	var items []layer.Item
	for _, entry := range entries {
		item := layer.Item{Entry: entry}
		if item.Mode == 0 {
			item.Mode = map[layer.Type]int64{layer.Dir: 0o755, layer.File: 0o644, layer.Symlink: 0o777}[entry.Type]
		}
		if item.ModTime.IsZero() && entry.Type != layer.Whiteout && entry.Type != layer.Hardlink {
			item.ModTime = epoch
		}
		if entry.Type == layer.File {
			text := content[entry.Path]
			item.Size = int64(len(text))
			item.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
		}
		items = append(items, item)
	}
	must(t, layer.WriteAll(t.Context(), w, items))
	diffID, mediaType, _, err := w.Close()
	must(t, err)
	desc, err := blob.Commit("")
	must(t, err)
	desc.MediaType = mediaType
	return layer.Layer{DiffID: diffID, Descriptor: desc}
}

func dir(path string) layer.Entry  { return layer.Entry{Path: path, Type: layer.Dir} }
func file(path string) layer.Entry { return layer.Entry{Path: path, Type: layer.File} }
func gone(path string) layer.Entry { return layer.Entry{Path: path, Type: layer.Whiteout} }
func link(path, to string) layer.Entry {
	return layer.Entry{Path: path, Type: layer.Symlink, Linkname: to}
}

// open opens a chain and releases it at the end of the test.
func (e *env) open(t *testing.T, chain ...layer.Layer) snapshot.ROLayer {
	t.Helper()
	ro, err := e.sn.Open(t.Context(), chain)
	must(t, err)
	t.Cleanup(func() { must(t, ro.Release()) })
	return ro
}

// tree lists what a read-only layer holds.
func tree(t *testing.T, ro snapshot.ROLayer) listing {
	t.Helper()
	rw, err := ro.NewRWLayer()
	must(t, err)
	defer func() { must(t, rw.Release()) }()
	return list(t, rw.Root())
}

// edit changes a layer and commits what f did. What it returns is what the writer saw, what the commit shows, and what
// the layers' blobs alone make.
func (e *env) edit(t *testing.T, ro snapshot.ROLayer, f func(root string)) snapshot.ROLayer {
	t.Helper()
	rw, err := ro.NewRWLayer()
	must(t, err)
	defer func() { must(t, rw.Release()) }()
	f(rw.Root())
	seen := list(t, rw.Root())
	committed, err := rw.Commit()
	must(t, err)
	t.Cleanup(func() { must(t, committed.Release()) })
	if got, want := len(committed.Chain()), len(ro.Chain())+1; got != want {
		t.Fatalf("the chain has %d layers, not %d", got, want)
	}
	shown := tree(t, committed)
	// A layer does not describe its root, whatever was done to it.
	seen["."] = shown["."]
	seen.withoutLinks().wantSame(t, "what was written and what was committed", shown.withoutLinks())

	// Another machine, which has nothing but the blobs.
	other := openStore(t, filepath.Join(t.TempDir(), "other"))
	elsewhere, err := e.mk(t, other, e.blob).Open(t.Context(), committed.Chain())
	must(t, err)
	defer func() { must(t, elsewhere.Release()) }()
	shown.wantSame(t, "what was committed and what the blobs hold", tree(t, elsewhere))
	return committed
}
