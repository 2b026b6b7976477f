package overlay

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cairn-build/cairn/pkg/store"
)

// scratch is a directory in the store's tmp in which one writable layer after another is made. It holds upper, work, root (where the layer is
// mounted) and, if need be, empty and base (see mountOverlay).
//
// It goes from the writable layer to the layer that this one becomes, and from there to the next writable layer: making and removing
// directories is a good part of what a step costs.
type scratch struct {
	st  *store.Store
	dir string
}

func newScratch(st *store.Store) (*scratch, error) {
	dir, err := st.TempDir("rw-")
	if err != nil {
		return nil, err
	}
	s := &scratch{st, dir}
	for _, name := range []string{"work", "root"} {
		if err := os.Mkdir(s.path(name), 0o755); err != nil {
			return nil, errors.Join(err, s.remove())
		}
	}
	return s, nil
}

func (s *scratch) path(name string) string { return filepath.Join(s.dir, name) }

// clear makes the directory fit for another mount, when the upper directory is gone: the kernel refuses a work directory that a
// volatile mount has left behind.
func (s *scratch) clear() error { return s.st.RemoveTemp(s.path("work/work")) }

func (s *scratch) remove() error { return s.st.RemoveTemp(s.dir) }

// empty makes the lowest directory of a root filesystem without layers, which looks as a root does that no layer describes.
func (s *scratch) empty() (string, error) {
	dir := s.path("empty")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, errors.Join(os.Chmod(dir, 0o755), os.Chtimes(dir, epoch, epoch))
}
