package build

import (
	"io"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/solve"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options is everything a build depends on. Fields are grouped by the phase that uses them.
type Options struct {
	Input  Input
	Args   Args
	Run    solve.RunOptions
	Cache  solve.CacheOptions
	Share  ShareOptions
	Result ResultOptions
	// Parts are what the phases work with.
	Parts Parts
}

// Input is where the build's files are.
type Input struct {
	// Context is a directory, "-" (Stdin: a tar, or a Dockerfile alone), or a git or http URL.
	Context string
	// Dockerfile is the path as given with -f: relative to the working directory, "-" for Stdin, "" for the context's default.
	Dockerfile string
	// Named are the --build-context values: name → URL or directory.
	Named map[string]string
	Stdin io.Reader
}

// Args is what the Dockerfile is planned for.
type Args struct {
	Target    string
	Platforms []ocispec.Platform
	// BuildArgs are also where SOURCE_DATE_EPOCH and the arguments that speak to the builder (BUILDKIT_…) come from.
	BuildArgs map[string]string
	Labels    map[string]string
	// Network is the default of RUN steps. AllowHostNetwork and AllowInsecure are the entitlements granted.
	Network                         string
	AllowHostNetwork, AllowInsecure bool
}

// ResultOptions says what becomes of the image.
type ResultOptions struct {
	// Tags name the image, normalised.
	Tags []string
	// Outputs are where it goes; with none it is kept in the local store under its tags.
	Outputs     []export.Output
	Annotations image.Annotations
	// Index makes an index also where there is one platform only (BUILDKIT_MULTI_PLATFORM in the build arguments does the same).
	Index bool
	// Stdout is what an output's dest=- means.
	Stdout io.Writer
}

// Parts are the tools of a build; cmd/cairn and the library packages put them together.
type Parts struct {
	Store       *store.Store
	Images      *source.Images
	Registry    *registry.Client
	Snapshotter snapshot.Snapshotter
	Executor    executor.Executor
	Progress    progress.Sink
}

// Result is what was built.
type Result struct {
	// Digest is that of the manifest, or of the index where there are several platforms.
	Digest     digest.Digest
	Descriptor ocispec.Descriptor
	// ConfigDigest is the image ID, for one platform.
	ConfigDigest digest.Digest
	// Exported is what the first output that made an image tells of it, for metadata files.
	Exported export.Result
}
