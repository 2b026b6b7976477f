package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// blobPath is where a blob lies. The digest may be a stranger's words, so it is checked before it becomes a path.
func (s *Store) blobPath(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", d, err)
	}
	return s.path(blobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// BlobWriter is a blob being written. It is hashed as it is written. It is not safe for concurrent use.
type BlobWriter struct {
	s    *Store
	file *os.File
	buf  *bufio.Writer
	hash hash.Hash
	size int64
	err  error
	done bool
}

// blobBuffer is how much of a blob is gathered before it is written: compressors hand out small pieces.
const blobBuffer = 256 << 10

// NewBlob starts a blob.
func (s *Store) NewBlob(ctx context.Context) (*BlobWriter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := s.tempFile()
	if err != nil {
		return nil, err
	}
	s.writers.Add(1)
	buf, kept := s.buffers.Get().(*bufio.Writer)
	if kept {
		buf.Reset(f)
	} else {
		buf = bufio.NewWriterSize(f, blobBuffer)
	}
	return &BlobWriter{s: s, file: f, buf: buf, hash: sha256.New()}, nil
}

func (w *BlobWriter) Write(p []byte) (int, error) {
	if w.done {
		return 0, fmt.Errorf("writing blob: %w", fs.ErrClosed)
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.buf.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	if err != nil {
		w.err = fmt.Errorf("writing blob: %w", err)
	}
	return n, w.err
}

// Size is the number of bytes written so far.
func (w *BlobWriter) Size() int64 { return w.size }

// Commit keeps the blob under its digest and returns digest and size; MediaType is left to the caller. When want is not empty
// and is not what was written, that is an error and nothing is kept. It is not waited for the disk: SetRef does that.
func (w *BlobWriter) Commit(want digest.Digest) (ocispec.Descriptor, error) {
	if w.done {
		return ocispec.Descriptor{}, fmt.Errorf("committing blob: %w", fs.ErrClosed)
	}
	defer w.Abort()
	if w.err == nil {
		w.err = w.buf.Flush()
	}
	if w.err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("committing blob: %w", w.err)
	}
	got, err := w.digest(want)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("committing blob: %w", err)
	}
	if want != "" && got != want {
		return ocispec.Descriptor{}, fmt.Errorf("committing blob: content has digest %s, not %s: %w", got, want, ErrCorrupt)
	}
	dst, err := w.s.blobPath(got)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("committing blob: %w", err)
	}
	if got.Algorithm() != digest.SHA256 {
		if err := makeStoreDir(w.s.path(blobsDir, got.Algorithm().String())); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("committing blob %s: %w", got, err)
		}
	}
	w.finish()
	// Only here: who aborts may have a writer that has not noticed yet.
	w.buf.Reset(nil)
	w.s.buffers.Put(w.buf)
	// A blob that is there already is replaced: that repairs one which has rotted. What refs lead to stays durable.
	mode, keep := fs.FileMode(modeWritten), rebuildable
	if fi, err := os.Lstat(dst); err == nil && fi.Mode().Perm() == modeDurable {
		mode, keep = modeDurable, durable
	}
	if err := w.s.publish(w.file, dst, mode, keep); err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{Digest: got, Size: w.size}, nil
}

// digest returns what was written in the algorithm of want. Hashing on the way is in SHA-256; the others are so rare that the file is
// read again for them.
func (w *BlobWriter) digest(want digest.Digest) (digest.Digest, error) {
	if want == "" {
		return digest.NewDigest(digest.SHA256, w.hash), nil
	}
	if err := want.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", want, err)
	}
	if want.Algorithm() == digest.SHA256 {
		return digest.NewDigest(digest.SHA256, w.hash), nil
	}
	return want.Algorithm().FromReader(io.NewSectionReader(w.file, 0, w.size))
}

// finish marks the writer as used up.
func (w *BlobWriter) finish() {
	w.done = true
	w.s.writers.Add(-1)
}

// Abort drops what was not committed. It may always be deferred.
func (w *BlobWriter) Abort() {
	if w.done {
		return
	}
	w.finish()
	w.file.Close()
	os.Remove(w.file.Name())
}

// PutBlob keeps a small blob (a config, a manifest).
func (s *Store) PutBlob(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if _, err := s.ReadBlob(desc.Digest, desc.Size); err == nil {
		return desc, nil
	}
	w, err := s.NewBlob(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := w.Commit(desc.Digest); err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}

// BlobFile opens a blob's file for reading at random or linking; nothing is verified.
func (s *Store) BlobFile(d digest.Digest) (*os.File, error) {
	path, err := s.blobPath(d)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening blob: %w", err)
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, damagedError{path}
	}
	return f, nil
}

// OpenBlob returns the content of a blob; fs.ErrNotExist if it is not held. Reading past the end of a blob whose content is not
// what its digest says is an error (ErrCorrupt) instead of io.EOF, and such a blob is dropped, so that it is fetched or made again.
func (s *Store) OpenBlob(d digest.Digest) (io.ReadCloser, error) {
	f, err := s.BlobFile(d)
	if err != nil {
		return nil, err
	}
	return &verifiedReader{file: f, verifier: d.Verifier()}, nil
}

// verifiedReader hashes what is read and compares at the end.
type verifiedReader struct {
	file     *os.File
	verifier digest.Verifier
	end      error
}

func (r *verifiedReader) Read(p []byte) (int, error) {
	if r.end != nil {
		return 0, r.end
	}
	n, err := r.file.Read(p)
	r.verifier.Write(p[:n])
	if err == io.EOF {
		if !r.verifier.Verified() {
			err = damagedError{r.file.Name()}
			dropFile(r.file)
		}
		r.end = err
	}
	return n, err
}

func (r *verifiedReader) Close() error { return r.file.Close() }

// dropFile unlinks an open file unless its name has been given to another one meanwhile.
func dropFile(f *os.File) {
	if ok, err := isNamed(f, f.Name()); err == nil && ok {
		os.Remove(f.Name())
	}
}

// ReadBlob returns a whole small blob, verified, refusing one larger than limit bytes.
func (s *Store) ReadBlob(d digest.Digest, limit int64) ([]byte, error) {
	r, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", d, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("reading blob %s: larger than %d bytes", d, limit)
	}
	return data, nil
}

// HasBlob reports whether a blob is held and its size. The content is not looked at, unless a power cut may have taken it.
func (s *Store) HasBlob(d digest.Digest) (int64, bool) {
	path, err := s.blobPath(d)
	if err != nil {
		return 0, false
	}
	fi, err := os.Lstat(path)
	if err != nil || !fi.Mode().IsRegular() || !s.whole(path, d, fi) {
		return 0, false
	}
	return fi.Size(), true
}

// Blob is one blob that is held.
type Blob struct {
	Digest digest.Digest
	// Size is in bytes.
	Size int64
	// ModTime is when it was written.
	ModTime time.Time
}

// Blobs walks over the blobs held, in no order. Files that are no blobs are errors of the walk, which goes on after them.
func (s *Store) Blobs() iter.Seq2[Blob, error] {
	return func(yield func(Blob, error) bool) {
		algorithms, err := os.ReadDir(s.path(blobsDir))
		if err != nil {
			yield(Blob{}, fmt.Errorf("listing blobs: %w", err))
			return
		}
		for _, algorithm := range algorithms {
			files, err := os.ReadDir(s.path(blobsDir, algorithm.Name()))
			if err != nil && !yield(Blob{}, fmt.Errorf("listing blobs: %w", err)) {
				return
			}
			for _, file := range files {
				b, err := s.blobAt(algorithm.Name(), file)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if !yield(b, err) {
					return
				}
			}
		}
	}
}

func (s *Store) blobAt(algorithm string, file fs.DirEntry) (Blob, error) {
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), file.Name())
	if d.Validate() != nil || !file.Type().IsRegular() {
		return Blob{}, fmt.Errorf("%s is no blob", s.path(blobsDir, algorithm, file.Name()))
	}
	fi, err := file.Info()
	if err != nil {
		return Blob{}, err
	}
	return Blob{Digest: d, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}
