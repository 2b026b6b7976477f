package export

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// WriteFile writes data to a file as outputs are written: the file has the old content or the new one, never part of it.
func WriteFile(path string, data []byte) error {
	return replaceFile(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// writable says before anything is built that the destination is no place for the output. What is well now may still go wrong at the end.
func (o Output) writable() error {
	switch {
	case o.Dest == "" || o.Dest == Stdout:
		return nil
	case o.Type != TypeLocal && o.flag(attrTar, true):
		return CheckFile(o.Dest)
	}
	if fi, err := os.Stat(o.Dest); err == nil && !fi.IsDir() {
		return fmt.Errorf("writing %s: %w", o.Dest, syscall.ENOTDIR)
	}
	return nil
}

// ReplaceFile is WriteFile for content that is made while it is written.
func ReplaceFile(path string, fill func(io.Writer) error) error { return replaceFile(path, fill) }

// replaceFile lets fill write a file beside path, which takes its place when it is complete and durable. A path that exists
// and is no regular file (/dev/null, a named pipe) is written to.
func replaceFile(path string, fill func(io.Writer) error) (err error) {
	named, mode := path, fs.FileMode(0o666) // less the umask
	switch fi, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("writing %s: %w", path, reason(err))
	case fi.IsDir():
		return fmt.Errorf("writing %s: %w", path, syscall.EISDIR)
	case !fi.Mode().IsRegular():
		return writeSpecial(path, fill)
	default:
		mode = fi.Mode().Perm()
		// A symlink stays one: what it points to is replaced.
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
	}
	f, err := createBeside(path, mode)
	if err != nil {
		return fmt.Errorf("writing %s: %w", named, err)
	}
	tmp := f.Name()
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(f.Close()), os.Remove(tmp))
		}
	}()
	b := bufio.NewWriterSize(f, 1<<20)
	if err := fill(b); err != nil {
		return err
	}
	for _, step := range []func() error{b.Flush, f.Sync, f.Close, func() error { return os.Rename(tmp, path) }} {
		if err := step(); err != nil {
			return fmt.Errorf("writing %s: %w", named, reason(err))
		}
	}
	return nil
}

// CheckFile reports why WriteFile could not write a file, without changing what is there.
func CheckFile(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err == nil && fi.IsDir():
		err = syscall.EISDIR
	case err == nil && !fi.Mode().IsRegular():
		err = unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
	case err == nil || errors.Is(err, fs.ErrNotExist):
		real := path
		if err == nil {
			if real, err = filepath.EvalSymlinks(path); err != nil {
				break
			}
		}
		var f *os.File
		if f, err = createBeside(real, 0o600); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, reason(err))
	}
	return nil
}

// createBeside makes a file with a name of its own in the directory of path.
func createBeside(path string, mode fs.FileMode) (*os.File, error) {
	tmp := fmt.Sprintf("%s/.%s.%s", filepath.Dir(path), cutName(filepath.Base(path)), rand.Text()[:8])
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	return f, reason(err)
}

// reason is an error without the temporary name that it is about.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	if l, ok := errors.AsType[*os.LinkError](err); ok {
		return l.Err
	}
	return err
}

// cutName leaves room in a file name for what the temporary name adds.
func cutName(s string) string {
	return s[:min(len(s), 200)]
}

func ignoreClosed(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}

func writeSpecial(path string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, reason(err))
	}
	err = errors.Join(fill(f), f.Close())
	if p, ok := errors.AsType[*fs.PathError](err); ok && p.Path == path {
		return fmt.Errorf("writing %s: %w", path, p.Err)
	}
	return err
}

// isTerminal reports whether w is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// replaceIn is replaceFile inside root.
func replaceIn(root *os.Root, name string, fill func(io.Writer) error) (err error) {
	tmp := filepath.Dir(name) + "/" + tempName()
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(f.Close()), root.Remove(tmp))
		}
	}()
	b := bufio.NewWriterSize(f, 256<<10)
	if err := fill(b); err != nil {
		return err
	}
	if err := errors.Join(b.Flush(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return root.Rename(tmp, name)
}

func tempName() string { return ".cairn-" + rand.Text() }
