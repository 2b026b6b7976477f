package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/opencontainers/go-digest"
)

// keyVersion is the first thing hashed. It changes whenever the same inputs could mean another result.
const keyVersion = "cairn cache key 1"

// Input is one thing a step depends on. Names say what it is ("arg", "root", "content") and may repeat; the order counts.
type Input struct{ Name, Value string }

// Key identifies a step by everything its result depends on. It is a value: it never changes, and remembers the inputs it was made of.
//
// A key has two parts. The definition is what the Dockerfile and the options say; the content is what the files that are used
// hold. Each part is a list of inputs, and every piece is hashed with its length before it, so that no two different lists are ever hashed as
// the same bytes.
//
// What At, WithNotes and WithFiles add is for people who ask why a step missed. It is no part of the identity.
type Key struct {
	kind       string
	definition []Input
	content    []Input
	digest     digest.Digest

	place Place
	notes []Input
	files func(most int) ([]File, bool)
}

// Place is where a step stands in the build.
type Place struct {
	// Platform and Stage are those of the stage, Number counts its steps from 0.
	Platform, Stage string
	Number          int
	// Name is what progress calls the step.
	Name string
}

// IsZero reports whether there is no place: what was looked up is no step of the Dockerfile.
func (p Place) IsZero() bool { return p == Place{} }

// File is one file that a step copies, for explanations: its name and the beginning of a digest over all of it that is copied.
type File struct {
	Name string
	Sum  [8]byte
}

// NewKey makes a key of a kind of step ("run", "copy") from the inputs that define it.
func NewKey(kind string, inputs ...Input) Key {
	k := Key{kind: kind, definition: append([]Input(nil), inputs...)}
	k.digest = k.sum()
	return k
}

// WithContent returns the key with more inputs in its content part.
func (k Key) WithContent(inputs ...Input) Key {
	k.content = append(append([]Input(nil), k.content...), inputs...)
	k.digest = k.sum()
	return k
}

// At returns the key with the place of its step, by which Explain finds what was there before.
func (k Key) At(p Place) Key {
	k.place = p
	return k
}

// WithNotes returns the key with inputs that explain others: the base image whose layers are the "root".
func (k Key) WithNotes(notes ...Input) Key {
	k.notes = append(append([]Input(nil), k.notes...), notes...)
	return k
}

// WithFiles returns the key with what makes up its "content". files is called only when somebody wants to know; it answers false where there are more
// than most.
func (k Key) WithFiles(files func(most int) ([]File, bool)) Key {
	k.files = files
	return k
}

// Place is what At set.
func (k Key) Place() Place { return k.place }

// Digest is the identity of the key.
func (k Key) Digest() digest.Digest { return k.digest }

// Kind is the kind of step.
func (k Key) Kind() string { return k.kind }

// Inputs returns the inputs of both parts in their order.
func (k Key) Inputs() []Input {
	return append(append([]Input(nil), k.definition...), k.content...)
}

func (k Key) sum() digest.Digest {
	f := framer{sha256.New()}
	f.text(keyVersion)
	f.text(k.kind)
	for _, part := range [][]Input{k.definition, k.content} {
		f.number(len(part))
		for _, in := range part {
			f.text(in.Name)
			f.text(in.Value)
		}
	}
	return digest.NewDigest(digest.SHA256, f.h)
}

// framer hashes values so that the end of each is known.
type framer struct{ h hash.Hash }

func (f framer) number(n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	f.h.Write(b[:])
}

func (f framer) text(s string) {
	f.number(len(s))
	f.h.Write([]byte(s))
}
