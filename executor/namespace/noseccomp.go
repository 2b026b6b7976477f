//go:build !cgo || !seccomp

package namespace

import "errors"

// Supported reports whether this program was built with what running processes needs: nothing is run unfiltered.
func Supported() error {
	return errors.New("this program was built without the filter of system calls " +
		"(hint: build with -tags seccomp, with a C compiler and libseccomp's headers)")
}

func abis() ([]abi, error) { return nil, Supported() }

func argOffset(uint) uint32 { return 0 }
