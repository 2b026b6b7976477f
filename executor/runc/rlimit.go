package runc

import (
	"github.com/opencontainers/runc/libcontainer/configs"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/process"
)

func rlimits(ulimits []executor.Ulimit) ([]configs.Rlimit, error) {
	limits, err := process.Rlimits(ulimits)
	var out []configs.Rlimit
	for _, l := range limits {
		out = append(out, configs.Rlimit{Type: l.Type, Soft: l.Soft, Hard: l.Hard})
	}
	return out, err
}
