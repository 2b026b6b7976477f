package layer

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestReusedCodecsMakeTheSameBytes compresses pieces of all sizes one after the other and at the same time.
func TestReusedCodecsMakeTheSameBytes(t *testing.T) {
	corpus := gzipCorpus()
	for _, level := range []int{0, 1} {
		c := Compression{Level: level}
		pack := func(c Compression, data []byte) string {
			var b bytes.Buffer
			w, _, err := newCompressor(&b, c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}
		reusing := c.Reusing()
		var wg sync.WaitGroup
		for worker := range uint64(2) {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(worker, 3))
				for i := range 16 {
					size := []int{0, 1, 100, 5000, 70_000, 1 << 20, 1<<20 + 5, 5 << 19}[i%8]
					at := rnd.IntN(len(corpus) - size)
					if pack(c, corpus[at:at+size]) != pack(reusing, corpus[at:at+size]) {
						t.Errorf("level %d: %d bytes from %d on are compressed to something else", level, size, at)
					}
				}
			})
		}
		wg.Wait()
	}
}

// BenchmarkSmallLayer is what the layer of a RUN that writes one small file costs.
func BenchmarkSmallLayer(b *testing.B) {
	for name, c := range map[string]Compression{"own codec": {}, "reused": Compression{}.Reusing()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w, err := NewWriter(io.Discard, c)
				if err != nil {
					b.Fatal(err)
				}
				if err := w.Add(Entry{Path: fmt.Sprint("f", i), Type: File, Size: 2}, bytes.NewReader([]byte("x\n"))); err != nil {
					b.Fatal(err)
				}
				if _, _, _, err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
