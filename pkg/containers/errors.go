package containers

import (
	"errors"

	"github.com/cairn-build/cairn/pkg/containers/core"
)

// The errors of this package, each wrapped together with its cause: errors.Is finds both.
var (
	ErrorImageOptions         = errors.New("image options failed")
	ErrorImageBuild           = errors.New("building image failed")
	ErrorImagePull            = errors.New("pulling image failed")
	ErrorClientPull           = errors.New("client pull failed")
	ErrorImageBuildDockerFile = errors.New("building Dockerfile failed")
	ErrorContainerOptions     = errors.New("container options failed")
	ErrorContainerCreate      = errors.New("creating container failed")
	ErrorContainerStart       = errors.New("start container failed")
	ErrorContainerWait        = errors.New("container wait failed")
	ErrorContainerInspect     = errors.New("inspecting container failed")
	ErrorExitCode             = errors.New("exit-code")
	ErrorContainerLogs        = errors.New("getting container logs failed")

	// ErrBackendNotAvailable is core's.
	ErrBackendNotAvailable = core.ErrBackendNotAvailable
)
