package test

import "os"

// tortureVar is set by `make torture`, which runs tests as often as docs/reliability.md says.
const tortureVar = "CAIRN_TORTURE"

// torture is how often something is done: n times in `make test`, many times in `make torture`.
func torture(n, many int) int {
	if os.Getenv(tortureVar) != "" {
		return many
	}
	return n
}
