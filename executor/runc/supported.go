package runc

import (
	"errors"

	"github.com/opencontainers/runc/libcontainer/seccomp"
)

// Supported reports whether this program was built with what running processes needs: nothing is run unfiltered.
func Supported() error {
	if !seccomp.Enabled {
		return errors.New("this program was built without the filter of system calls " +
			"(hint: build with -tags seccomp, with a C compiler and libseccomp's headers)")
	}
	return nil
}
