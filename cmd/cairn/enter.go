package main

import (
	"io"

	"github.com/cairn-build/cairn/pkg/userns"
)

// enter brings the program into namespaces of its own, in which a build may mount and change owners. In the process that the user
// started, done is true and everything has happened already, in a process inside.
func enter(stderr io.Writer) (done bool, err error) {
	done, code, err := userns.Enter()
	switch {
	case err != nil:
		return true, err
	case done && code != 0:
		return true, exited{code}
	case done:
		return true, nil
	}
	if m, _ := userns.Current(); m.Map == userns.SingleID {
		warn(stderr, "files can have one owner only, which most images do not work with: %s", m.Obstacle)
	}
	return false, nil
}
