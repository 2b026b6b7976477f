package store

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// largeIndex is the index of a layer of many files, which is too large to be read into memory.
func largeIndex(t *testing.T) (digest.Digest, *layer.Index) {
	t.Helper()
	w, err := layer.NewWriter(io.Discard, layer.Compression{Type: "uncompressed"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20_000 {
		e := layer.Entry{Path: fmt.Sprintf("a-file-with-a-long-name-%06d", i), Type: layer.File, Mode: 0o640}
		if err := w.Add(e, nil); err != nil {
			t.Fatal(err)
		}
	}
	diffID, _, ix, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return diffID, ix
}

// opened is how often this process has a file open.
func opened(t *testing.T, path string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to == path {
			n++
		}
	}
	return n
}

// However often an index is asked for, there is one, with one file.
func TestIndexIsShared(t *testing.T) {
	s := newStore(t)
	diffID, written := largeIndex(t)
	if err := s.PutIndex(diffID, written); err != nil {
		t.Fatal(err)
	}
	if got, err := s.LayerIndex(diffID); got != written {
		t.Errorf("another index than the one that was written is read: %v", err)
	}
	runtime.KeepAlive(written)
	path, err := s.layerPath(diffID)
	if err != nil {
		t.Fatal(err)
	}
	path += indexSuffix
	other := openStore(t, s.root)
	var all []*layer.Index
	for range 100 {
		ix, err := other.LayerIndex(diffID)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ix)
	}
	if n := opened(t, path); n != 1 {
		t.Errorf("the index is open %d times", n)
	}
	if e, ok := all[99].Lookup("a-file-with-a-long-name-012345"); !ok || e.Mode != 0o640 || all[0] != all[99] {
		t.Errorf("%+v, %t", e, ok)
	}
	// What is not on disk as it was is not shared any more.
	overwrite(t, path, []byte("nothing"))
	if _, err := other.LayerIndex(diffID); err == nil {
		t.Error("a damaged index is still there")
	}
	if _, ok := all[0].Lookup("a-file-with-a-long-name-000001"); !ok || all[0].Err() != nil {
		t.Error("who has it cannot use it any more")
	}
}
