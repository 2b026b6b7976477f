package fakeroot

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// CopyFile copies the content of in, of size bytes, to out, which is empty: by a reflink where the file system has them, else without its holes.
func CopyFile(out, in *os.File, size int64) error {
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	for at := int64(0); at < size; {
		data, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole to the end
		}
		end := size
		if err == nil {
			if end, err = in.Seek(data, unix.SEEK_HOLE); err != nil {
				return err
			}
		} else {
			data = at // no holes known here
		}
		if _, err := in.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(data, io.SeekStart); err != nil {
			return err
		}
		// ReadFrom has the kernel copy (copy_file_range(2)).
		if _, err := out.ReadFrom(io.LimitReader(in, end-data)); err != nil {
			return err
		}
		at = end
	}
	return out.Truncate(size)
}
