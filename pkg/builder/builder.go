// Package builder is the contract between an interpreter of Dockerfiles and what stores its images and runs its commands: package builder
// of github.com/docker/docker, whose last public form is v28. An interpreter written for that one runs on this Backend, with no daemon and no privilege:
//
//	backend, err := builder.New(builder.Options{})
//
// Docker's structs are those of github.com/moby/moby/api/types; those that Docker kept to itself (CommitConfig and others) are here. Where the
// generations of the contract differ the newest is Backend, and what only older ones had is in OlderBackend. docs/library.md has the table.
//
// The layers are those of package snapshot. They are mounted in a worker process (package engine): RWLayer.Root leads there. An ordinary user can
// write below it what belongs to root in the image; giving files to other owners takes the place that `cairn unshare` makes.
package builder

import (
	"context"
	"io"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DefaultDockerfileName is the file that is read where no other is named.
const DefaultDockerfileName = "Dockerfile"

// Source is where ADD and COPY take files from.
type Source interface {
	// Root is the directory of the files.
	Root() string
	// Close says that they are not needed any more. What was made temporarily is removed.
	Close() error
	// Hash returns a checksum of a file: of its content and what a tar header says of it, but for its time. A symlink is followed, inside the
	// root. Of a path that is not there, the hash is the path.
	Hash(path string) (string, error)
}

// Backend is what an interpreter needs. New makes one.
type Backend interface {
	ImageBackend
	ExecBackend

	// CommitBuildStep makes an image of what a container has changed, with the config given.
	CommitBuildStep(ctx context.Context, c CommitConfig) (image.ID, error)
	// ContainerCreateWorkdir makes the container's working directory in its root filesystem.
	ContainerCreateWorkdir(containerID string) error
	// CreateImage keeps an image config, whose layers are there, and notes its parent, unless that is "", and that it was built here.
	CreateImage(ctx context.Context, config []byte, parent string, contentStoreDigest digest.Digest) (Image, error)

	ImageCacheBuilder
}

// OlderBackend is what earlier generations of the contract had besides. The Backend that New returns implements it.
type OlderBackend interface {
	Backend
	// Commit is CommitBuildStep of a container given by its ID (before 2018-04). It returns the image ID.
	Commit(containerID string, c *CommitConfig) (string, error)
	// ContainerCreate is ContainerCreateIgnoreImagesArgsEscaped (before 2019-03).
	ContainerCreate(ctx context.Context, config ContainerCreateConfig) (container.CreateResponse, error)
	// ContainerKill ends a container at once (before 2024-01). The signal is SIGKILL for 0.
	ContainerKill(containerID string, signal uint64) error
}

// ImageBackend gives images.
type ImageBackend interface {
	// GetImageAndReleasableLayer returns an image and its layer, which must be released, each time. "" is scratch: no image, and an
	// empty layer.
	GetImageAndReleasableLayer(ctx context.Context, refOrID string, opts GetImageAndLayerOptions) (Image, ROLayer, error)
}

// PullOption says where an image may come from.
type PullOption int

// The values of PullOption.
const (
	// PullOptionNoPull takes images of the store only.
	PullOptionNoPull PullOption = iota
	// PullOptionForcePull asks the registry first.
	PullOptionForcePull
	// PullOptionPreferLocal asks the registry for what the store does not have.
	PullOptionPreferLocal
)

// GetImageAndLayerOptions say which image is wanted, and from where.
type GetImageAndLayerOptions struct {
	PullOption PullOption
	// AuthConfig are credentials by the registry's host ("https://index.docker.io/v1/" is Docker's).
	AuthConfig map[string]registry.AuthConfig
	// Output gets the progress of a pull as Docker's JSON messages; nil drops it.
	Output io.Writer
	// Platform is what the image must be for; nil is this machine's, for an image with several.
	Platform *ocispec.Platform
}

// ExecBackend runs containers. See Run for the order of the calls.
type ExecBackend interface {
	// ContainerAttachRaw connects a container's streams, closes attached, and returns when the container has ended and all is written.
	ContainerAttachRaw(cID string, stdin io.ReadCloser, stdout, stderr io.Writer, stream bool, attached chan struct{}) error
	// ContainerCreateIgnoreImagesArgsEscaped makes a container. What its HostConfig asks for and cannot be had is an error.
	ContainerCreateIgnoreImagesArgsEscaped(ctx context.Context, config ContainerCreateConfig) (container.CreateResponse, error)
	// ContainerRm removes a container; one that runs only with ForceRemove.
	ContainerRm(name string, config *ContainerRmConfig) error
	// ContainerStart starts a container. There are no checkpoints to start from.
	ContainerStart(ctx context.Context, containerID string, checkpoint string, checkpointDir string) error
	// ContainerWait returns at once with a channel on which the end comes.
	ContainerWait(ctx context.Context, name string, condition container.WaitCondition) (<-chan StateStatus, error)
}

// ContainerCreateConfig describes a container.
type ContainerCreateConfig struct {
	Name                        string
	Config                      *container.Config
	HostConfig                  *container.HostConfig
	NetworkingConfig            *network.NetworkingConfig
	Platform                    *ocispec.Platform
	DefaultReadOnlyNonRecursive bool
}

// ContainerRmConfig says how a container is removed. There are no links, and a container's volumes are its own.
type ContainerRmConfig struct {
	ForceRemove, RemoveVolume, RemoveLink bool
}

// CommitConfig is what makes an image of a container.
type CommitConfig struct {
	Author, Comment string
	// Config is what containers of the new image start with, ContainerConfig what the container ran.
	Config, ContainerConfig *container.Config
	ContainerID             string
	// ContainerMountLabel, ContainerOS and ParentImageID are filled in by CommitBuildStep.
	ContainerMountLabel, ContainerOS, ParentImageID string
}

// StateStatus is how a container ended.
type StateStatus struct {
	exitCode int
	err      error
}

// NewStateStatus makes a StateStatus.
func NewStateStatus(exitCode int, err error) StateStatus { return StateStatus{exitCode, err} }

// ExitCode is that of the process: 128+n after signal n, -1 if it is not known.
func (s StateStatus) ExitCode() int { return s.exitCode }

// Err is why the container could not run or be waited for; nil for a command that ran and failed.
func (s StateStatus) Err() error { return s.err }

// Result is what an interpreter has made.
type Result struct {
	ImageID string
	// FromImage is the image that the last stage started from.
	FromImage Image
}

// ImageCacheBuilder makes caches.
type ImageCacheBuilder interface {
	// MakeImageCache returns a cache of the images built here, or if cacheFrom names any, of those that lead to the images named. Images that are
	// not there are passed over.
	MakeImageCache(ctx context.Context, cacheFrom []string) (ImageCache, error)
}

// ImageCache finds an image that a step has made before.
type ImageCache interface {
	// GetCache returns the image that a step with this config has made of an image; "" and no error if there is none.
	GetCache(parentID string, cfg *container.Config, platform ocispec.Platform) (imageID string, err error)
}

// Image is an image as an interpreter sees it. *image.Image is one.
type Image interface {
	ImageID() string
	RunConfig() *container.Config
	MarshalJSON() ([]byte, error)
	OperatingSystem() string
}

// ROLayer and RWLayer are the layers of package snapshot.
type (
	ROLayer = snapshot.ROLayer
	RWLayer = snapshot.RWLayer
)

// ReleaseableLayer is the layer of the contract before 2017-10, from which ROLayer and RWLayer came. NewReleaseableLayer makes one.
type ReleaseableLayer interface {
	// Release gives up the layer, mounted or not.
	Release() error
	// Mount mounts the layer to be written to, and returns where. A second call returns the same.
	Mount() (string, error)
	// Commit makes a layer of what was written below the mount.
	Commit() (ReleaseableLayer, error)
	// DiffID is the digest of the uncompressed layer.
	DiffID() digest.Digest
}
