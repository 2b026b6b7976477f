//go:build !cgo || !seccomp

package ladder

import "fmt"

// newRunc says why there is no executor: libcontainer, which could be one, takes cgo and libseccomp, and this program was built without them.
func newRunc(_ string, cause error) (sandboxes, error) {
	return nil, fmt.Errorf("%w (hint: a program built with cgo, -tags seccomp and libseccomp's headers has another executor, which may work here)", cause)
}
