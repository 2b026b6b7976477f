package layer

import (
	"encoding/hex"

	"github.com/opencontainers/go-digest"
)

// Sum is the SHA-256 of a file's content; zero is none. An index holds one for each of its files, where the text of a digest would take three
// times the memory.
type Sum [32]byte

// SumOf returns the sum that a digest says, and none of a digest of another algorithm.
func SumOf(d digest.Digest) (sum Sum) {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return Sum{}
	}
	if _, err := hex.Decode(sum[:], []byte(d.Encoded())); err != nil {
		return Sum{}
	}
	return sum
}

// Digest returns the sum as a digest, "" for none.
func (s Sum) Digest() digest.Digest {
	if s == (Sum{}) {
		return ""
	}
	var b [7 + 64]byte
	copy(b[:], "sha256:")
	hex.Encode(b[7:], s[:])
	return digest.Digest(b[:])
}

// String is the digest's text, "" for none.
func (s Sum) String() string { return s.Digest().String() }
