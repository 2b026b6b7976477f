package snapshottest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/opencontainers/go-digest"
)

func testDeepChain(t *testing.T, e *env) {
	const depth = 150
	var chain []layer.Layer
	for i := range depth {
		name := fmt.Sprint("f", i)
		entries := []layer.Entry{file(name), file("shared")}
		if i > 0 && i%3 == 0 {
			entries = append(entries, gone(fmt.Sprint("f", i-1)))
		}
		chain = append(chain, e.layerOf(t, map[string]string{name: name, "shared": name}, entries...))
	}
	ro := e.open(t, chain...)
	got := e.edit(t, ro, func(root string) {
		wantContent(t, root, "shared", fmt.Sprint("f", depth-1))
		wantContent(t, root, "f0", "f0")
		remove(t, root, "f0")
	})
	if n := len(tree(t, got)); n != 2+depth-(depth-1)/3-1 {
		t.Errorf("%d paths", n)
	}
}

// Layers are unpacked in parallel, and still each entry lands where a symlink of a layer below leads.
func testThroughSymlink(t *testing.T, e *env) {
	base := e.layerOf(t, map[string]string{"usr/lib/old": "old"}, dir("usr"), dir("usr/lib"), file("usr/lib/old"), link("lib", "usr/lib"),
		link("lib64", "/lib"), link("out", "../../../../etc"))
	upper := e.layerOf(t, map[string]string{"lib/new": "new", "lib64/sub/x": "x", "out/y": "y"}, file("lib/new"), file("lib64/sub/x"), gone("lib/old"),
		file("out/y"))
	ro := e.open(t, base, upper)
	tree(t, ro).want(t, "etc", "etc/y", "lib", "lib64", "out", "usr", "usr/lib", "usr/lib/new", "usr/lib/sub", "usr/lib/sub/x")
	r, err := e.sn.OpenFile(t.Context(), ro.Chain(), "usr/lib/new")
	must(t, err)
	defer r.Close()
	if data, err := io.ReadAll(r); err != nil || string(data) != "new" {
		t.Errorf("%q, %v", data, err)
	}
	e.edit(t, ro, func(root string) { write(t, root, "lib/newer", "newer") })
}

func testOpenFile(t *testing.T, e *env) {
	base := e.base(t)
	upper := e.layerOf(t, map[string]string{"dir/f": "content"}, dir("dir"), file("dir/f"), link("evil", "/etc/passwd"), link("up", "../../../.."),
		layer.Entry{Path: "fifo", Type: layer.Fifo, Mode: 0o644})
	read := func(chain []layer.Layer, name string) (string, error) {
		r, err := e.sn.OpenFile(t.Context(), chain, name)
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(r)
		return string(data), errors.Join(err, r.Close())
	}
	chain := []layer.Layer{base, upper}
	if got, err := read(chain, "dir/f"); err != nil || got != "content" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := read(chain[:1], "etc/conf/a"); err != nil || got != "a" {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"missing", "etc/conf/a", "", ".", "..", "../../x", "/dir/f", "dir", "evil", "up/etc/passwd", "fifo", "dir/f/x", "a\x00b"} {
		if got, err := read(chain, name); err == nil {
			t.Errorf("%q: %q", name, got)
		}
	}
	if _, err := read(chain, "missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := read(nil, "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("scratch: %v", err)
	}
}

// Many open overlapping chains at once, through two snapshotters as different processes would have them: every layer is read once.
func testConcurrent(t *testing.T, e *env) {
	shared := []layer.Layer{e.base(t)}
	for i := range 4 {
		shared = append(shared, e.layerOf(t, nil, file(fmt.Sprint("shared", i))))
	}
	var mu sync.Mutex
	fetched := map[digest.Digest]int{}
	blob := func(ctx context.Context, l layer.Layer) (io.ReadCloser, error) {
		mu.Lock()
		fetched[l.DiffID]++
		mu.Unlock()
		return e.blob(ctx, l)
	}
	second := openStore(t, e.st.Root())
	snapshotters := []snapshot.Snapshotter{e.mk(t, e.st, blob), e.mk(t, second, blob)}
	var wg sync.WaitGroup
	for i := range 16 {
		own := e.layerOf(t, nil, file(fmt.Sprint("own", i%4)))
		wg.Go(func() {
			ro, err := snapshotters[i%2].Open(t.Context(), append(append([]layer.Layer(nil), shared...), own))
			if err != nil {
				t.Error(err)
				return
			}
			rw, err := ro.NewRWLayer()
			if err != nil {
				t.Error(err)
				return
			}
			err = os.WriteFile(filepath.Join(rw.Root(), fmt.Sprint("written", i)), nil, 0o644)
			committed, commitErr := rw.Commit()
			if err := errors.Join(err, commitErr, rw.Release(), ro.Release()); err != nil {
				t.Error(err)
				return
			}
			if err := committed.Release(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for id, n := range fetched {
		if n != 1 {
			t.Errorf("layer %s was read %d times", id, n)
		}
	}
}

func testRelease(t *testing.T, e *env) {
	ro, err := e.sn.Open(t.Context(), []layer.Layer{e.base(t)})
	must(t, err)
	rw, err := ro.NewRWLayer()
	must(t, err)
	root := rw.Root()
	write(t, root, "dropped", "")
	// The layer below may go first.
	for range 3 {
		must(t, ro.Release())
	}
	if _, err := ro.NewRWLayer(); err == nil {
		t.Error("a released layer was opened")
	}
	wantContent(t, root, "etc/conf/a", "a")
	for range 3 {
		must(t, rw.Release())
	}
	if _, err := os.Stat(filepath.Join(root, "dropped")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Release: %v", err)
	}
	if _, err := rw.Commit(); err == nil {
		t.Error("a released layer was committed")
	}

	ro = e.open(t, e.base(t))
	tree(t, ro).want(t, "abs", "bin", "etc", "etc/conf", "etc/conf/a", "etc/conf/b", "etc/passwd", "usr", "usr/bin", "usr/bin/tool")
	rw, err = ro.NewRWLayer()
	must(t, err)
	committed, err := rw.Commit()
	must(t, err)
	if _, err := rw.Commit(); err == nil {
		t.Error("a layer was committed twice")
	}
	for range 2 {
		must(t, errors.Join(rw.Release(), committed.Release()))
	}

	// A file that is still open keeps nobody from releasing.
	rw, err = ro.NewRWLayer()
	must(t, err)
	f, err := os.Open(filepath.Join(rw.Root(), "etc/passwd"))
	must(t, err)
	defer f.Close()
	must(t, rw.Release())
}

// A layer that is not what it is said to be leaves nothing behind, and does not keep the true one from being opened.
func testBadLayer(t *testing.T, e *env) {
	base, other := e.base(t), e.layerOf(t, nil, file("other"))
	lie := base
	lie.Descriptor = other.Descriptor
	if ro, err := e.sn.Open(t.Context(), []layer.Layer{lie}); err == nil {
		t.Errorf("opened a layer with a false DiffID: %v", ro.Chain())
	}
	missing := base
	missing.Descriptor.Digest = digest.FromString("nowhere")
	if _, err := e.sn.Open(t.Context(), []layer.Layer{missing}); err == nil {
		t.Error("opened a layer whose blob is missing")
	}
	// The one above fails while the one below is fine, and the other way round.
	bad := layer.Layer{DiffID: digest.FromString("x"), Descriptor: other.Descriptor}
	for _, chain := range [][]layer.Layer{{base, bad}, {bad, base}, {base, bad, other}} {
		if _, err := e.sn.Open(t.Context(), chain); err == nil {
			t.Error("opened a chain with a false layer")
		}
	}
	tree(t, e.open(t, base, other))
}

// Indexes are a cache: without them, layers that are unpacked already can still be built upon.
func testLostIndex(t *testing.T, e *env) {
	base := e.base(t)
	upper := e.layerOf(t, nil, gone("etc/conf/a"))
	tree(t, e.open(t, base))
	lose := func() {
		names, err := filepath.Glob(filepath.Join(e.st.Root(), "layers", "*.index"))
		must(t, err)
		if len(names) == 0 {
			t.Error("there is no index to lose")
		}
		for _, name := range names {
			must(t, os.Remove(name))
		}
		e.sn = e.mk(t, e.st, e.blob)
	}
	lose()
	ro := e.open(t, base, upper)
	if _, ok := tree(t, ro)["etc/conf/a"]; ok {
		t.Error("a whiteout got lost with the index")
	}
	lose()
	e.edit(t, e.open(t, base, upper), func(root string) { remove(t, root, "etc/conf") })
}

func testCanceled(t *testing.T, e *env) {
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	var once atomic.Bool
	stuck := func(ctx context.Context, _ layer.Layer) (io.ReadCloser, error) {
		if once.CompareAndSwap(false, true) {
			close(started)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	base, upper := e.base(t), e.layerOf(t, nil, file("new"))
	sn := e.mk(t, e.st, stuck)
	failed := make(chan error)
	go func() {
		_, err := sn.Open(ctx, []layer.Layer{base, upper})
		failed <- err
	}()
	<-started
	// Who waits for the same layers in vain takes over.
	waiting := make(chan error)
	go func() {
		ro, err := e.sn.Open(t.Context(), []layer.Layer{base, upper})
		if err == nil {
			err = ro.Release()
		}
		waiting <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("who waited: %v", err)
	}
}

// What was unpacked or committed is there for the next process, which reads no blob for it.
func testReopen(t *testing.T, e *env) {
	committed := e.edit(t, e.open(t, e.base(t)), func(root string) { write(t, root, "new", "new") })
	want := tree(t, committed)
	again := e.mk(t, openStore(t, e.st.Root()), func(_ context.Context, l layer.Layer) (io.ReadCloser, error) {
		return nil, fmt.Errorf("layer %s is read again", l.DiffID)
	})
	ro, err := again.Open(t.Context(), committed.Chain())
	must(t, err)
	defer func() { must(t, ro.Release()) }()
	want.wantSame(t, "two processes", tree(t, ro))
	if !strings.Contains(want["new"], "size 3") {
		t.Errorf("new: %s", want["new"])
	}
}
