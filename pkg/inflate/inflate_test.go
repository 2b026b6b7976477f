package inflate_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cairn-build/cairn/pkg/inflate"
	kgzip "github.com/klauspost/compress/gzip"
)

// contents are inputs of different kinds.
func contents() map[string][]byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	var words strings.Builder
	for words.Len() < 700_000 {
		fmt.Fprintf(&words, "word%d ", rnd.IntN(3000))
	}
	skewed := make([]byte, 400_000) // needs long codes
	for i := range skewed {
		skewed[i] = byte(rnd.ExpFloat64() * 12)
	}
	far := bytes.Repeat(noise[:32<<10], 4) // distances of a whole window
	return map[string][]byte{
		"empty": nil, "byte": {7}, "zeros": make([]byte, 1_000_000), "noise": noise, "words": []byte(words.String()), "skewed": skewed, "far": far,
		"pairs": bytes.Repeat([]byte{1, 2}, 100_000), "sevens": bytes.Repeat([]byte("abcdefg"), 50_000),
		"mixed": append(append([]byte(words.String()[:200_000]), noise[:100_000]...), make([]byte, 200_000)...),
	}
}

func compress(t testing.TB, level int, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, data := range parts {
		w, err := gzip.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Name, w.Comment, w.Extra = "name", "comment", []byte("extra")
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func read(r io.Reader) ([]byte, error) {
	z, err := inflate.NewReader(r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func TestRead(t *testing.T) {
	for name, data := range contents() {
		for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, flate.BestSpeed, 6, flate.BestCompression} {
			t.Run(fmt.Sprintf("%s/%d", name, level), func(t *testing.T) {
				packed := compress(t, level, data)
				for kind, r := range map[string]io.Reader{
					"whole": bytes.NewReader(packed), "halves": iotest.HalfReader(bytes.NewReader(packed)), "data with EOF": iotest.DataErrReader(bytes.NewReader(packed)),
				} {
					got, err := read(r)
					if err != nil {
						t.Fatalf("%s: %v", kind, err)
					}
					if !bytes.Equal(got, data) {
						t.Errorf("%s: %d bytes came out, not the %d that went in", kind, len(got), len(data))
					}
				}
			})
		}
	}
}

// TestMembers has members that follow each other, one of them empty, byte by byte.
func TestMembers(t *testing.T) {
	c := contents()
	packed := compress(t, 6, c["words"], nil, c["far"], c["byte"])
	want := bytes.Join([][]byte{c["words"], c["far"], c["byte"]}, nil)
	got, err := read(iotest.OneByteReader(bytes.NewReader(packed)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came out, not %d", len(got), len(want))
	}
}

// TestOtherEncoder reads what the encoder of layers writes.
func TestOtherEncoder(t *testing.T) {
	for name, data := range contents() {
		var b bytes.Buffer
		w := kgzip.NewWriter(&b)
		_, _ = w.Write(data)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := read(&b); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(data), err)
		}
	}
}

// TestCut ends streams early, at every byte. What came out before must be true.
func TestCut(t *testing.T) {
	data := append([]byte(strings.Repeat("some text ", 40)), contents()["noise"][:300]...)
	for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, 6} {
		packed := compress(t, level, data)
		for n := range packed {
			got, err := read(bytes.NewReader(packed[:n]))
			if want := io.ErrUnexpectedEOF; n == 0 && err != io.EOF || n > 0 && !errors.Is(err, want) {
				t.Fatalf("level %d, cut after %d of %d bytes: %v", level, n, len(packed), err)
			}
			if !bytes.HasPrefix(data, got) {
				t.Fatalf("level %d, cut after %d of %d bytes: something else came out", level, n, len(packed))
			}
		}
	}
}

// TestDamage changes every byte of a stream: nothing else than what went in comes out without an error.
func TestDamage(t *testing.T) {
	data := []byte(strings.Repeat("some text, and other text ", 30))
	packed := compress(t, 6, data)
	for i := range packed {
		for _, flip := range []byte{1, 0x80, 0xff} {
			damaged := bytes.Clone(packed)
			damaged[i] ^= flip
			compare(t, damaged)
		}
	}
	if _, err := read(bytes.NewReader(append(bytes.Clone(packed), 0))); err == nil {
		t.Error("a byte after the end is no error")
	}
}

// compare has the standard library say what is right.
func compare(t *testing.T, packed []byte) {
	t.Helper()
	const most = 8 << 20
	var want []byte
	std, wantErr := gzip.NewReader(bytes.NewReader(packed))
	if wantErr == nil {
		want, wantErr = io.ReadAll(io.LimitReader(std, most))
	}
	var got []byte
	z, err := inflate.NewReader(bytes.NewReader(packed))
	if err == nil {
		got, err = io.ReadAll(io.LimitReader(z, most))
	}
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("error %v, but the standard library has %v, of %x", err, wantErr, packed)
	}
	if err == nil && !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, but the standard library has %d others, of %x", len(got), len(want), packed)
	}
	if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) {
		t.Fatalf("what came out before the error differs, of %x", packed)
	}
}

func FuzzRead(f *testing.F) {

	c := contents()
	for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, flate.BestSpeed, 6} {
		f.Add(compress(f, level, c["words"][:3000]))
		f.Add(compress(f, level, c["skewed"][:3000], c["byte"]))
	}
	f.Fuzz(compare)
}

func BenchmarkRead(b *testing.B) {
	c := contents()
	data := bytes.Repeat(append(append(c["words"], c["mixed"]...), c["skewed"]...), 8)
	packed := compress(b, 6, data)
	open := map[string]func(io.Reader) (io.Reader, error){
		"inflate":   func(r io.Reader) (io.Reader, error) { return inflate.NewReader(r) },
		"klauspost": func(r io.Reader) (io.Reader, error) { return kgzip.NewReader(r) },
		"standard":  func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	}
	for name, f := range open {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, err := f(bytes.NewReader(packed))
				if err == nil {
					_, err = io.Copy(io.Discard, r)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
