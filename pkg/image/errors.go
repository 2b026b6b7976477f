package image

import (
	"errors"
	"fmt"
	"io/fs"
)

// Errors about layers, as Docker's package layer names them.
var (
	// ErrLayerDoesNotExist is that of a ChainID whose layers are not all known.
	ErrLayerDoesNotExist error = notFound{fmt.Errorf("layer does not exist")}
	// ErrLayerNotRetained is that of releasing a layer more often than it was got.
	ErrLayerNotRetained error = fmt.Errorf("layer not retained")
	// ErrMaxDepthExceeded is that of an image with more than MaxLayerDepth layers.
	ErrMaxDepthExceeded error = invalid{fmt.Errorf("max depth exceeded")}
)

// notFound marks an error about what is not there.
type notFound struct{ error }

// NotFound is how containerd's errdefs tell the kind of an error.
func (notFound) NotFound() {}

// Is makes errors.Is(err, fs.ErrNotExist) true.
func (notFound) Is(target error) bool { return target == fs.ErrNotExist }

func (e notFound) Unwrap() error { return e.error }

func notFoundf(format string, args ...any) error { return notFound{fmt.Errorf(format, args...)} }

// invalid marks an error about what was given.
type invalid struct{ error }

// InvalidParameter is how containerd's errdefs tell the kind of an error.
func (invalid) InvalidParameter() {}

func (e invalid) Unwrap() error { return e.error }

func invalidf(format string, args ...any) error { return invalid{fmt.Errorf(format, args...)} }

// noImage is the error of a reference that names no image.
type noImage struct{ ref string }

func (e noImage) Error() string { return "no such image: " + e.ref }

func noSuchImage(ref string) error { return notFound{noImage{ref}} }

// MissingRef is the reference that names no image, where that is what an error is about.
func MissingRef(err error) (ref string, ok bool) {
	e, ok := errors.AsType[noImage](err)
	return e.ref, ok
}
