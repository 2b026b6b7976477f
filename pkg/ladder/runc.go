//go:build cgo && seccomp

package ladder

import "github.com/cairn-build/cairn/executor/runc"

// newRunc is for places where the cheaper executor does not work.
func newRunc(dir string, _ error) (sandboxes, error) {
	e, err := runc.New(runc.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	return e, nil
}
