//go:build !cgo || !seccomp

package ladder

import "github.com/cairn-build/cairn/pkg/hint"

// newRunc says why there is no executor: libcontainer, which could be one, takes cgo and libseccomp, and this program was built without them.
func newRunc(_ string, cause error) (sandboxes, error) {
	return nil, hint.With(cause, "a program built with cgo, -tags seccomp and libseccomp's headers has another executor, which may work here")
}
