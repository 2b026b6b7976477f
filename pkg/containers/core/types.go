// Package core is the contract between the client of package containers and the backends that run containers: Backend and Image, and the
// values they take. A backend is chosen by its configuration; New finds the backend that a configuration is for.
//
// Names and behaviour are those of github.com/taubyte/tau/pkg/containers/core, of both of its generations; docs/library.md says what was
// taken where they differ.
package core

import (
	"context"
	"errors"
	"io"
	"time"
)

var (
	// ErrBuildNotSupported is returned by Image.Build of a backend that builds no images.
	ErrBuildNotSupported = errors.New("build not supported by this backend")
	// ErrBackendNotAvailable is that of a backend that no imported package provides.
	ErrBackendNotAvailable = errors.New("backend not available on this platform")
	// ErrNotSupported is wrapped by the errors of what a backend cannot do: an option is carried out or is an error.
	ErrNotSupported = errors.New("not supported by this backend")
)

// ContainerID names a container of one backend.
type ContainerID string

// BackendType names a kind of backend.
type BackendType string

// The kinds of backends. Native is cairn's own, which needs no daemon. Nothing here provides Firecracker and Nanos.
const (
	BackendTypeNative      BackendType = "native"
	BackendTypeDocker      BackendType = "docker"
	BackendTypeContainerd  BackendType = "containerd"
	BackendTypeFirecracker BackendType = "firecracker"
	BackendTypeNanos       BackendType = "nanos"
)

// Backend runs containers. It is safe for concurrent use.
type Backend interface {
	// BackendType says which kind it is.
	BackendType() BackendType
	// Image returns an image by name; it need not exist.
	Image(name string) Image

	// Create makes a container that is not started. What config asks for and the backend cannot do is an error.
	Create(ctx context.Context, config *ContainerConfig) (ContainerID, error)
	// Start starts a container's process and does not wait for it.
	Start(ctx context.Context, id ContainerID) error
	// Stop ends a container. Stopping one that does not run is no error; its logs and its state stay.
	Stop(ctx context.Context, id ContainerID) error
	// Remove removes a container, also one that runs. It cannot be inspected any more.
	Remove(ctx context.Context, id ContainerID) error
	// Wait returns when the container does not run any more. Its exit code is no error: see Inspect.
	Wait(ctx context.Context, id ContainerID) error
	// Logs returns what the container has written so far, in the frames of Docker's API (moby/api/pkg/stdcopy takes them apart).
	Logs(ctx context.Context, id ContainerID) (io.ReadCloser, error)
	// Inspect returns the state of a container.
	Inspect(ctx context.Context, id ContainerID) (*ContainerInfo, error)

	// Clean removes the images that were made more than age ago. reference limits that to one name, or to those that a pattern
	// matches; "" is every image.
	Clean(ctx context.Context, age time.Duration, reference string) error
	// HealthCheck reports whether the backend can be used.
	HealthCheck(ctx context.Context) error
	// Capabilities says what the backend can do.
	Capabilities() BackendCapabilities
}

// FilterCleaner is a Backend that can clean by Docker's filters ("label", "dangling", …).
type FilterCleaner interface {
	CleanFilter(ctx context.Context, age time.Duration, filter map[string]map[string]bool) error
}

// Image is an image of a backend.
type Image interface {
	// Pull takes the image from its registry.
	Pull(ctx context.Context) error
	// Build makes the image from a Dockerfile.
	Build(ctx context.Context, input *DockerfileBuild) error
	// Exists reports whether the backend has the image; nothing is pulled.
	Exists(ctx context.Context) bool
	// Remove removes the image from the backend.
	Remove(ctx context.Context) error
	// Name is the name the image was asked for by.
	Name() string
	// Digest is the image's digest without "sha256:": that of its manifest, or else its ID.
	Digest(ctx context.Context) (string, error)
	// Tags are all names of the image.
	Tags(ctx context.Context) ([]string, error)
}

// Progress is how far a layer is that is pulled or pushed.
type Progress struct {
	// ID is the beginning of the layer's digest; "" for what concerns the image. Status is in Docker's words ("Downloading").
	ID, Status string
	// Current and Total are bytes; 0 where they are not known.
	Current, Total int64
}

// ProgressPuller is an Image that tells how its Pull gets on.
type ProgressPuller interface {
	PullProgress(ctx context.Context, report func(Progress)) error
}

// Pusher is an Image that can be sent to its registry.
type Pusher interface {
	Push(ctx context.Context) error
}

// DockerfileBuild is what an image is built from.
type DockerfileBuild struct {
	// RestrictEgress keeps the build from everything but the public internet.
	RestrictEgress bool
	// Context is a tar of the build context, compressed or not.
	Context io.Reader
	// Dockerfile is its name in the context; "" is Dockerfile.
	Dockerfile string
	// Output gets the progress as text; nil drops it.
	Output io.Writer
}

// DockerfileName is the name of the Dockerfile in the context.
func (d *DockerfileBuild) DockerfileName() string {
	if d.Dockerfile == "" {
		return "Dockerfile"
	}
	return d.Dockerfile
}

// BackendCapabilities says what a backend can do.
type BackendCapabilities struct {
	// Limits that are enforced.
	SupportsMemory, SupportsCPU, SupportsStorage, SupportsPIDs, SupportsMemorySwap bool
	// SupportsBuild: images are built from Dockerfiles. SupportsOCI: images are OCI images. SupportsNetworking: containers have a
	// network. SupportsVolumes: directories of the machine are shown in containers.
	SupportsBuild, SupportsOCI, SupportsNetworking, SupportsVolumes bool
}

// ContainerInfo is the state of a container.
type ContainerInfo struct {
	ID ContainerID
	// Status is "created", "running" or "exited".
	Status string
	// ExitCode is that of a container that has ended: 128+n after signal n.
	ExitCode  int
	StartedAt time.Time
	// Image is the name that the container was created with.
	Image     string
	Resources *ResourceLimits
}

// ResourceLimits bound what a container may use. 0 is no limit.
type ResourceLimits struct {
	Memory     int64 // bytes
	MemorySwap int64 // memory and swap together, in bytes; -1 is no limit of swap
	CPUQuota   int64 // microseconds in each period
	CPUPeriod  int64 // microseconds
	CPUShares  int64 // relative weight
	Storage    int64 // bytes
	PIDs       int64 // processes
}

// ContainerConfig describes a container.
type ContainerConfig struct {
	Image string
	// Command replaces the image's command, and goes to its entrypoint as arguments. One word together with Shell is a line for that shell.
	Command []string
	Shell   []string
	// Env are NAME=VALUE, which add to those of the image or replace them.
	Env []string
	// WorkDir replaces the image's working directory.
	WorkDir    string
	Volumes    []VolumeMount
	Network    *NetworkConfig
	Resources  *ResourceLimits
	Privileges *Privileges
}

// Privileges loosen the confinement of a container.
type Privileges struct {
	// Capabilities are added, without "CAP_". Devices are paths of the machine.
	Capabilities []string
	Devices      []string
	// Unconfined drops the filters of system calls and AppArmor's profile; Privileged nearly everything.
	Unconfined bool
	Privileged bool
}

// VolumeMount shows a directory or file of the machine in a container.
type VolumeMount struct {
	// Source is a path of the machine, or with IsVolumeName the name of a volume that the backend manages.
	Source, Destination string
	ReadOnly            bool
	IsVolumeName        bool
}

// NetworkConfig describes the network of a container.
type NetworkConfig struct {
	// Mode is "", "host", "none", "bridge" or "custom".
	Mode string
	// PortMappings, DNS, Aliases, NetworkName, IPConfig, MTU and BackendOptions are for backends with networks of their own.
	PortMappings   []PortMapping
	DNS            []string
	Aliases        []string
	NetworkName    string
	IPConfig       *IPConfig
	MTU            int
	BackendOptions map[string]any
	// RestrictEgress keeps the container from everything but the public internet. Where that cannot be done, the container is not made.
	RestrictEgress bool
}

// IPConfig is a static address; one of the two may be nil.
type IPConfig struct {
	IPv4 *IPv4Config
	IPv6 *IPv6Config
}

// IPv4Config is an address of version 4, "" by DHCP.
type IPv4Config struct {
	Address            string
	WaitForDHCPSeconds int
	Gateway, Netmask   string
}

// IPv6Config is an address of version 6, "" by DHCP.
type IPv6Config struct {
	Address            string
	WaitForDHCPSeconds int
	Gateway            string
}

// PortMapping makes a port of a container reachable on the machine.
type PortMapping struct {
	HostPort, ContainerPort int
	// Protocol is "tcp" or "udp". HostIP is the address to listen on; "" is all.
	Protocol, HostIP string
}
