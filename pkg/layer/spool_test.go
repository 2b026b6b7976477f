package layer

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// gated is a writer that takes nothing until it is opened.
type gated struct {
	bytes.Buffer
	open chan struct{}
	err  error
}

func (g *gated) Write(p []byte) (int, error) {
	<-g.open
	if g.err != nil {
		return 0, g.err
	}
	return g.Buffer.Write(p)
}

type closer struct{ io.Writer }

func (closer) Close() error { return nil }

// noisy writes a layer of size bytes that do not compress.
func noisy(t *testing.T, w *Writer, size int64) {
	t.Helper()
	content := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
	if err := w.Add(Entry{Path: "noise", Type: File, Mode: 0o644, Size: size}, content); err != nil {
		t.Fatal(err)
	}
}

func nameless(t *testing.T) func() (*os.File, error) {
	return func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "") }
}

// TestSpool: a layer ends although its destination takes nothing, and becomes the same to the byte as one that waited.
func TestSpool(t *testing.T) {
	for _, size := range []int64{100, 3 << 20, 12 << 20} {
		plain := &bytes.Buffer{}
		p, err := NewWriter(plain, Compression{})
		if err != nil {
			t.Fatal(err)
		}
		noisy(t, p, size)
		want, _, _, err := p.Close()
		if err != nil {
			t.Fatal(err)
		}
		dst := &gated{open: make(chan struct{})}
		late := time.AfterFunc(5*time.Minute, func() { panic("the writer waits for its destination") })
		w, err := NewWriter(dst, Compression{})
		if err != nil {
			t.Fatal(err)
		}
		w.Spool = nameless(t)
		noisy(t, w, size)
		diffID, _, rest, err := w.End()
		if err != nil || diffID != want {
			t.Fatalf("%d bytes: DiffID %s, %v; want %s", size, diffID, err, want)
		}
		late.Stop()
		close(dst.open)
		if _, err := rest(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dst.Bytes(), plain.Bytes()) {
			t.Errorf("%d bytes: the blob is another one", size)
		}
	}
}

func TestSpoolFails(t *testing.T) {
	broken := errors.New("the disk is full")
	dst := &gated{open: make(chan struct{}), err: broken}
	close(dst.open)
	w, err := NewWriter(dst, Compression{})
	if err != nil {
		t.Fatal(err)
	}
	w.Spool = nameless(t)
	noisy(t, w, 100)
	_, _, rest, err := w.End()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rest(); !errors.Is(err, broken) {
		t.Errorf("it ended with %v", err)
	}
	w, err = NewWriter(io.Discard, Compression{})
	if err != nil {
		t.Fatal(err)
	}
	w.Spool = nameless(t)
	noisy(t, w, 3<<20)
	w.Abort()
	if err := w.Add(Entry{Path: "z", Type: File, Size: 8 << 20}, io.LimitReader(rand.NewChaCha8([32]byte{}), 8<<20)); !errors.Is(err, errAborted) {
		t.Errorf("adding to a layer that was given up: %v", err)
	}
}

// TestSpoolFile: what does not fit into memory goes round in a file of a fixed size, or waits where the file cannot be had.
func TestSpoolFile(t *testing.T) {
	files := map[string]func(name string) (*os.File, error){
		"a ring":                os.Create,
		"one that is not there": os.Open,
		"one that takes nothing": func(name string) (*os.File, error) {
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				return nil, err
			}
			return os.Open(name)
		},
	}
	for what, open := range files {
		t.Run(what, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "file")
			dst := &gated{open: make(chan struct{})}
			s := newSpool(closer{dst}, func() (*os.File, error) {
				close(dst.open) // memory is full
				return open(name)
			})
			s.limit = spoolLeast
			src := rand.NewChaCha8([32]byte{2})
			want := make([]byte, 20<<20)
			_, _ = src.Read(want)
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+int(src.Uint64()%70_000))
				if _, err := s.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := s.Close(); err != nil || !bytes.Equal(dst.Bytes(), want) {
				t.Errorf("%v; %d bytes of %d", err, dst.Len(), len(want))
			}
			if fi, err := os.Stat(name); err == nil && fi.Size() > spoolLeast {
				t.Errorf("the file has %d bytes", fi.Size())
			}
			if s.abort(); s.Close() != nil {
				t.Error("giving up what has ended well spoils it")
			}
		})
	}
}
