// Package spill keeps what may become very much: little of it in memory, more in a file without a name. What a build knows of each file of an
// image is kept so, for there is no end to how many there are, and to memory there is.
package spill

import (
	"errors"
	"io"
	"os"
)

const (
	// inMemory is how many bytes stay in memory.
	inMemory = 256 << 10
	// ahead is how many bytes are written to the file at once.
	ahead = 64 << 10
)

// SystemTemp makes a nameless file where the system has its temporary files.
func SystemTemp() (*os.File, error) {
	f, err := os.CreateTemp("", "spill-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Bytes grow at their end. The zero value is empty. A file is a convenience: where none can be had, or written to, all stays in memory. Reading is
// safe for concurrent use, but not while something is written. The file goes with the garbage.
type Bytes struct {
	// Temp makes the nameless file; nil makes it in the system's directory for temporary files. Set it before the first Write.
	Temp func() (*os.File, error)

	// memory is all there is, or what is behind the file's first size bytes.
	memory []byte
	file   *os.File // nil while there is none
	size   int64
	// stays is set where nothing more goes into a file.
	stays bool
}

// Len is how many bytes there are.
func (b *Bytes) Len() int64 { return b.size + int64(len(b.memory)) }

// Write puts p at the end. It fails only if what was written to a file before cannot be read any more.
func (b *Bytes) Write(p []byte) (int, error) {
	b.memory = append(b.memory, p...)
	if b.stays || len(b.memory) < ahead || b.file == nil && len(b.memory) < inMemory {
		return len(p), nil
	}
	return len(p), b.flush()
}

// flush puts what is in memory into the file, or stays in memory for good.
func (b *Bytes) flush() error {
	if b.file == nil {
		temp := b.Temp
		if temp == nil {
			temp = SystemTemp
		}
		f, err := temp()
		if err != nil {
			b.stays = true
			return nil
		}
		b.file = f
	}
	if _, err := b.file.WriteAt(b.memory, b.size); err != nil {
		return b.recall()
	}
	b.size += int64(len(b.memory))
	if b.memory = b.memory[:0]; cap(b.memory) > 2*ahead {
		b.memory = make([]byte, 0, ahead+ahead/4)
	}
	return nil
}

// recall takes everything back into memory.
func (b *Bytes) recall() error {
	all := make([]byte, b.Len())
	if _, err := b.ReadAt(all, 0); err != nil {
		return err
	}
	_ = b.file.Close() // it has no name, and nothing of it is wanted any more
	b.memory, b.file, b.size, b.stays = all, nil, 0, true
	return nil
}

// ReadAt implements io.ReaderAt.
func (b *Bytes) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off > b.Len() {
		return 0, io.EOF
	}
	if off < b.size {
		n, err = b.file.ReadAt(p[:min(int64(len(p)), b.size-off)], off)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		off += int64(n)
	}
	if n < len(p) {
		n += copy(p[n:], b.memory[off-b.size:])
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// WriteAt replaces bytes that are there.
func (b *Bytes) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off+int64(len(p)) > b.Len() {
		return 0, io.ErrShortWrite
	}
	if off < b.size {
		n, err = b.file.WriteAt(p[:min(int64(len(p)), b.size-off)], off)
		if err != nil {
			return n, err
		}
		off += int64(n)
	}
	if n < len(p) {
		n += copy(b.memory[off-b.size:], p[n:])
	}
	return n, nil
}
