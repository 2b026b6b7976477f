// Package layertest has layers that no honest tool writes: by name, from the known attacks on those who unpack layers, and generated. It
// knows archives only, so that pkg/layer, the snapshotters and other people's tools are tried with the same ones.
package layertest

import (
	"archive/tar"
	"bytes"
	"io"
	"iter"
	"time"
)

// Entry is a tar header with content.
type Entry struct {
	tar.Header
	Content string
}

// Of is an entry of a type, with mode 0755 and a fixed time.
func Of(name string, typ byte) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: typ, Mode: 0o755, ModTime: time.Unix(1000, 0).UTC()}}
}

// File is a regular file with mode 0644.
func File(name, content string) Entry {
	e := Of(name, tar.TypeReg)
	e.Mode, e.Size, e.Content = 0o644, int64(len(content)), content
	return e
}

// Dir is a directory.
func Dir(name string) Entry { return Of(name, tar.TypeDir) }

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	e := Of(name, tar.TypeSymlink)
	e.Linkname = target
	return e
}

// Hardlink is a hard link.
func Hardlink(name, target string) Entry {
	e := Of(name, tar.TypeLink)
	e.Linkname = target
	return e
}

// Device is a character or block device.
func Device(name string, typ byte, major, minor int64) Entry {
	e := Of(name, typ)
	e.Devmajor, e.Devminor = major, minor
	return e
}

// Tar is the archive of entries, in their order.
func Tar(entries ...Entry) ([]byte, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		if err := tw.WriteHeader(&e.Header); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(tw, e.Content); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// All collects what is yielded, until an error.
func All[E any](seq iter.Seq2[E, error]) (all []E, err error) {
	for e, err := range seq {
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// Each yields all, or an error.
func Each[E any](all []E, err error) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			var none E
			yield(none, err)
		}
	}
}
