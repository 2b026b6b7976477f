package snapshot

import (
	"errors"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// EmptyDiffID is the digest of the empty tar, two blocks of zeros: the DiffID of a root filesystem without layers.
var EmptyDiffID = digest.FromBytes(make([]byte, 1024))

// OpenFile opens a regular file below dir, the directory of an unpacked layer. No symlink leads out of dir, and nothing that is no file is
// waited for.
func OpenFile(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")})
	}
	return f, nil
}
