package main

import (
	"github.com/cairn-build/cairn/pkg/userns"
)

// enter brings the program into namespaces of its own, in which a build may mount and change owners. In the process that the user
// started, done is true and everything has happened already, in a process inside.
func enter() (done bool, err error) {
	done, code, err := userns.Enter()
	switch {
	case err != nil:
		return true, err
	case done && code != 0:
		return true, exited{code}
	}
	return done, nil
}
