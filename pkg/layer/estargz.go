package layer

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// SeekableAnnotations are the annotations of the descriptor of an eStargz layer: the digest of its table of contents, without which nobody reads a
// file of it alone, and the size in bytes of what is in the blob.
func SeekableAnnotations() []string {
	return []string{estargz.TOCJSONDigestAnnotation, estargz.StoreUncompressedSizeAnnotation}
}

// estargzWriter makes an eStargz blob of a tar: a gzip stream that begins anew with every file, so that one can be read without the others, and a
// table of contents after the end of the archive. The archive before it stays as it is, byte for byte; but the table is in the stream too, and
// so the DiffID of the layer is another. The table, some hundred bytes for each entry, is held in memory.
//
// The library reads where a compressor is written to, hence the pipe. Close or abort must be called.
type estargzWriter struct {
	pipe  *io.PipeWriter
	begun bool
	done  chan struct{}

	// When done: how it ended, and what the descriptor says.
	err         error
	diffID      digest.Digest
	annotations map[string]string
}

func newEstargz(dst io.Writer, level int) *estargzWriter {
	r, w := io.Pipe()
	z := &estargzWriter{pipe: w, done: make(chan struct{})}
	go func() {
		defer close(z.done)
		z.err = z.run(r, dst, level)
		r.CloseWithError(z.err)
	}()
	return z
}

func (z *estargzWriter) run(r io.Reader, dst io.Writer, level int) error {
	c := &estargzCompressor{GzipCompressor: estargz.NewGzipCompressorWithLevel(level), level: level}
	w := estargz.NewWriterWithCompressor(dst, c)
	if err := w.AppendTarLossLess(readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		c.size += int64(n)
		return n, err
	})); err != nil {
		return err
	}
	toc, err := w.Close()
	if err != nil {
		return err
	}
	z.diffID = digest.Digest(w.DiffID())
	z.annotations = map[string]string{
		estargz.TOCJSONDigestAnnotation: toc.String(), estargz.StoreUncompressedSizeAnnotation: strconv.FormatInt(c.size, 10),
	}
	return nil
}

func (z *estargzWriter) Write(p []byte) (int, error) {
	// The library would take such an archive for a compressed one.
	if !z.begun && bytes.HasPrefix(p, []byte{0x1f, 0x8b}) {
		return 0, errors.New("the archive begins as a gzip stream does, which eStargz cannot have")
	}
	z.begun = z.begun || len(p) > 0
	return z.pipe.Write(p)
}

// Close implements io.Closer.
func (z *estargzWriter) Close() error {
	z.pipe.Close()
	<-z.done
	if z.err != nil {
		return fmt.Errorf("writing eStargz: %w", z.err)
	}
	return nil
}

// abort gives up; dst is not used any more when it returns.
func (z *estargzWriter) abort() {
	z.pipe.CloseWithError(errAborted)
	<-z.done
}

// estargzCompressor is the library's but for the implementation of gzip, and that it counts.
type estargzCompressor struct {
	*estargz.GzipCompressor
	level int
	size  int64 // of what is compressed, in bytes
}

// Writer implements estargz.Compressor.
func (c *estargzCompressor) Writer(w io.Writer) (estargz.WriteFlushCloser, error) {
	return gzip.NewWriterLevel(w, c.level)
}

// WriteTOCAndFooter implements estargz.Compressor.
func (c *estargzCompressor) WriteTOCAndFooter(w io.Writer, off int64, toc *estargz.JTOC, diffHash hash.Hash) (digest.Digest, error) {
	return c.GzipCompressor.WriteTOCAndFooter(w, off, toc, countedHash{diffHash, &c.size})
}

type countedHash struct {
	hash.Hash
	n *int64
}

func (h countedHash) Write(p []byte) (int, error) {
	*h.n += int64(len(p))
	return h.Hash.Write(p)
}
