package containers

import (
	"io"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// MuxedReadCloser is the output of a container: both streams in one, in the frames of Docker's API. It is read once, by Combined or Separated.
type MuxedReadCloser struct {
	reader io.ReadCloser
}

// Combined returns both streams as one, in the order in which they were written. Output that is not what it should be is an error of
// its reader.
func (m *MuxedReadCloser) Combined() io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		defer m.reader.Close()
		_, err := stdcopy.StdCopy(w, w, m.reader)
		w.CloseWithError(err)
	}()
	return r
}

// Separated returns the two streams. Both must be read at the same time, or one closed: what is written to one waits for its reader.
func (m *MuxedReadCloser) Separated() (stdout, stderr io.ReadCloser) {
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	go func() {
		defer m.reader.Close()
		_, err := stdcopy.StdCopy(open{outW}, open{errW}, m.reader)
		outW.CloseWithError(err)
		errW.CloseWithError(err)
	}()
	return outR, errR
}

// open is a writer whose reader may have had enough without the other stream's reader getting less.
type open struct{ w io.Writer }

func (o open) Write(p []byte) (int, error) {
	_, _ = o.w.Write(p)
	return len(p), nil
}

// Close ends the reading.
func (m *MuxedReadCloser) Close() error { return m.reader.Close() }
