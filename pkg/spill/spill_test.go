package spill

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

// check compares bytes with what they must be.
func check(t *testing.T, b *Bytes, want []byte, rnd *rand.Rand) {
	t.Helper()
	if b.Len() != int64(len(want)) {
		t.Fatalf("%d bytes, want %d", b.Len(), len(want))
	}
	for range 20 {
		lo := rnd.IntN(len(want) + 1)
		p := make([]byte, rnd.IntN(len(want)-lo+1))
		if n, err := b.ReadAt(p, int64(lo)); err != nil || !bytes.Equal(p[:n], want[lo:lo+len(p)]) {
			t.Fatalf("%d bytes at %d of %d: %d, %v", len(p), lo, len(want), n, err)
		}
	}
	all := make([]byte, len(want)+1)
	if n, err := b.ReadAt(all, 0); n != len(want) || !errors.Is(err, io.EOF) || !bytes.Equal(all[:n], want) {
		t.Fatalf("all: %d of %d, %v", n, len(want), err)
	}
}

func TestBytes(t *testing.T) {
	full := errors.New("full")
	for _, c := range []struct {
		name string
		temp func() (*os.File, error)
	}{
		{"file", nil},
		{"none", func() (*os.File, error) { return nil, full }},
		// Each write fails.
		{"unwritable", func() (*os.File, error) { return os.Open(os.DevNull) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			b := Bytes{Temp: c.temp}
			var want []byte
			for len(want) < 1<<20 {
				p := make([]byte, rnd.IntN(5000))
				for i := range p {
					p[i] = byte(rnd.Uint32())
				}
				if _, err := b.Write(p); err != nil {
					t.Fatal(err)
				}
				want = append(want, p...)
				if rnd.IntN(20) == 0 {
					at := rnd.IntN(len(want) + 1)
					p = p[:min(len(p), len(want)-at)]
					if n, err := b.WriteAt(p, int64(at)); n != len(p) || err != nil {
						t.Fatal(n, err)
					}
					copy(want[at:], p)
					check(t, &b, want, rnd)
				}
			}
			check(t, &b, want, rnd)
			if inFile := b.file != nil; inFile != (c.name == "file") {
				t.Errorf("in a file: %t", inFile)
			}
			if n := len(b.memory); c.name == "file" && n > 2*ahead {
				t.Errorf("%d bytes in memory", n)
			}
			if n, err := b.WriteAt([]byte("x"), b.Len()); n != 0 || err == nil {
				t.Error("written behind the end")
			}
		})
	}
}

// A file that is cut by somebody is an error and not zeros.
func TestCutFile(t *testing.T) {
	var b Bytes
	if _, err := b.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := b.file.Truncate(10); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReadAt(make([]byte, 100), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}
