package layer

import (
	"context"
	"io"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

func BenchmarkDebianIndex(b *testing.B) {
	const p = "/var/cache/cairn-test/base-debian/blobs/sha256/328c5e0150f564407d1c847bcc4d1f1a4b38763ab1ceb4cc2030f6346db7f456"
	f, _ := os.Open(p)
	r, _, err := Decompress(f)
	if err != nil {
		b.Fatal(err)
	}
	d, _ := digest.FromReader(r)
	f.Close()
	for b.Loop() {
		f, _ := os.Open(p)
		if _, err := Unpack(context.Background(), f, Layer{DiffID: d}, "", nil, Limits{}); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkDebianGunzip(b *testing.B) {
	const p = "/var/cache/cairn-test/base-debian/blobs/sha256/328c5e0150f564407d1c847bcc4d1f1a4b38763ab1ceb4cc2030f6346db7f456"
	for b.Loop() {
		f, _ := os.Open(p)
		r, _, err := Decompress(f)
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, r)
		f.Close()
	}
}
