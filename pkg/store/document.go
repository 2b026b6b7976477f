package store

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// sealHeader begins a sealed document; the number is the format's version.
	sealHeader = "cairn1 "
	// sealedLen is the length of the line that goes before a sealed document: the header, a SHA-256 in hex, a newline.
	sealedLen = len(sealHeader) + 2*sha256.Size + 1
	// smallDocument is the most bytes of a document that are read into memory when it is opened.
	smallDocument = 256 << 10
)

func seal(sum []byte) string { return sealHeader + hex.EncodeToString(sum) + "\n" }

// Document is a document of the store that was found whole when it was opened. It stays as it was then, whatever becomes of its name. It is safe for
// concurrent use.
type Document struct {
	io.ReaderAt
	size int64
	seal string
	info fs.FileInfo
	file *os.File // nil if it is in memory
}

// Size is its length in bytes.
func (d *Document) Size() int64 { return d.size }

// Close must be called, or left to the garbage collector.
func (d *Document) Close() error {
	if d.file == nil {
		return nil
	}
	return d.file.Close()
}

// openSealed opens a document and reads it once. A damaged one is a damagedError.
func openSealed(path string) (*Document, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	d, err := checkSealed(f, path)
	if err != nil || d.file == nil {
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

func checkSealed(f *os.File, path string) (*Document, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() < int64(sealedLen) {
		return nil, damagedError{path}
	}
	d := &Document{size: fi.Size() - int64(sealedLen), info: fi}
	head := make([]byte, sealedLen)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	d.seal = string(head)
	body := io.NewSectionReader(f, int64(sealedLen), d.size)
	hash := sha256.New()
	if d.size <= smallDocument {
		data := make([]byte, d.size)
		if _, err := io.ReadFull(body, data); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		hash.Write(data)
		d.ReaderAt = bytes.NewReader(data)
	} else {
		if n, err := io.Copy(hash, body); err != nil || n < d.size {
			return nil, fmt.Errorf("reading %s: %w", path, cmp.Or(err, io.ErrUnexpectedEOF))
		}
		d.ReaderAt, d.file = body, f
	}
	if d.seal != seal(hash.Sum(nil)) {
		return nil, damagedError{path}
	}
	return d, nil
}

// readSealed returns a document as a whole.
func readSealed(path string) ([]byte, error) {
	d, err := openSealed(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	data := make([]byte, d.size)
	if _, err := io.ReadFull(io.NewSectionReader(d, 0, d.size), data); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, nil
}

// putSealed is writeSealed of bytes, and writes nothing where they are there already: an unchanged store costs no sync.
func (s *Store) putSealed(dst string, data []byte, keep durability) error {
	if old, err := readSealed(dst); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return s.writeSealed(dst, keep, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// writeSealed writes a document with its checksum before it, so that a damaged one is recognised. What is there already in the same words is left
// alone.
func (s *Store) writeSealed(dst string, keep durability, write func(io.Writer) error) error {
	tmp, err := s.tempFile()
	if err != nil {
		return err
	}
	words, err := sealInto(tmp, write)
	if err != nil {
		tmp.Close()
		os.Remove(tmp.Name())
		return fmt.Errorf("writing %s: %w", dst, err)
	}
	if old, err := openSealed(dst); err == nil {
		same := old.seal == words
		if err := old.Close(); err != nil {
			return err
		}
		if same {
			tmp.Close()
			return os.Remove(tmp.Name())
		}
	}
	return s.publish(tmp, dst, 0o600, keep)
}

// sealInto writes a sealed document to an empty file and returns its seal.
func sealInto(f *os.File, write func(io.Writer) error) (string, error) {
	hash := sha256.New()
	// Most documents are small, and there are several in every step.
	buf := bufio.NewWriter(io.MultiWriter(io.NewOffsetWriter(f, int64(sealedLen)), hash))
	if err := write(buf); err != nil {
		return "", err
	}
	if err := buf.Flush(); err != nil {
		return "", err
	}
	words := seal(hash.Sum(nil))
	_, err := f.WriteAt([]byte(words), 0)
	return words, err
}
