//go:build !cgo

package engine

import "errors"

// supported says why this program cannot do what an engine does.
func supported() error {
	return errors.New("this program was built without cgo, which entering a container needs " +
		"(hint: build with CGO_ENABLED=1 and -tags seccomp, with a C compiler and libseccomp's headers)")
}
