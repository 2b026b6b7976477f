package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// manyFiles is a layer of n files of about 4 KiB in directories of a hundred.
func manyFiles(n int) []Item {
	rnd := rand.New(rand.NewPCG(3, 4))
	var items []Item
	for i := range n {
		if i%100 == 0 {
			items = append(items, entry("usr", Dir), entry(fmt.Sprintf("usr/dir%d", i/100), Dir))
		}
		var b bytes.Buffer
		for b.Len() < 1000+rnd.IntN(6000) {
			fmt.Fprintf(&b, "%d of the words %x\n", rnd.IntN(9), rnd.IntN(1<<16))
		}
		items = append(items, file(fmt.Sprintf("usr/dir%d/file%d.h", i/100, i), b.String()))
	}
	return items
}

func BenchmarkUnpack(b *testing.B) {
	l := write(b, Compression{}, manyFiles(10_000)...)
	root := b.TempDir()
	n := 0
	for b.Loop() {
		n++
		dir := root + "/" + strconv.Itoa(n)
		must(b, os.Mkdir(dir, 0o755))
		if _, err := Unpack(context.Background(), bytes.NewReader(l.blob), l.Layer, dir, nil, Limits{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		must(b, os.RemoveAll(dir))
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "files/s")
}

func BenchmarkIndexOnly(b *testing.B) {
	l := write(b, Compression{}, manyFiles(10_000)...)
	b.SetBytes(int64(len(l.blob)))
	for b.Loop() {
		if _, err := Unpack(context.Background(), bytes.NewReader(l.blob), l.Layer, "", nil, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, c := range []Compression{{Type: "gzip"}, {Type: "zstd"}, {Type: "uncompressed"}} {
		b.Run(c.Type, func(b *testing.B) {
			items := manyFiles(10_000)
			var size int64
			for _, it := range items {
				size += it.Size
			}
			b.SetBytes(size)
			for b.Loop() {
				w, err := NewWriter(io.Discard, c)
				if err != nil {
					b.Fatal(err)
				}
				if err := WriteAll(context.Background(), w, items); err != nil {
					b.Fatal(err)
				}
				if _, _, _, err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	l := write(b, Compression{Type: "uncompressed"}, manyFiles(20_000)...)
	data := marshal(l.ix)
	b.ReportMetric(float64(len(data))/float64(len(entriesOf(l.ix))), "bytes/entry")
	for b.Loop() {
		if _, err := Unmarshal(data); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*float64(len(entriesOf(l.ix)))/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkStackLstat(b *testing.B) {
	l := write(b, Compression{Type: "uncompressed"}, manyFiles(20_000)...)
	s := Stack([]*Index{l.ix, l.ix, l.ix}, nil)
	entries := entriesOf(l.ix)
	i := 0
	for b.Loop() {
		i++
		if _, err := s.Lstat(entries[i%len(entries)].Path); err != nil {
			b.Fatal(err)
		}
	}
}
