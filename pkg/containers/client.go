// Package containers builds, pulls and runs container images from a Go program:
//
//	client, err := containers.New()
//	image, err := client.Image(ctx, "debian:bookworm")
//	container, err := image.Instantiate(ctx, containers.Command([]string{"uname", "-a"}))
//	logs, err := container.Run(ctx)
//	io.Copy(os.Stdout, logs.Combined())
//
// It needs no daemon: the backend is cairn's own (package native), unless another is asked for with WithBackend. Those for a Docker daemon and for
// containerd are in packages of their own, so that only who uses them links them.
//
// Names and behaviour are those of github.com/taubyte/tau/pkg/containers, of both of its generations; docs/library.md says what was taken
// where they differ. All errors that it names match with errors.Is.
package containers

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/cairn-build/cairn/pkg/containers/native"
)

// ForceRebuild has every Image that is given a Dockerfile built, also if it exists. It is a variable of the package because it is
// one in the library whose contract this is; set it before the first use.
var ForceRebuild = false

// Client makes images and containers with one backend. It is safe for concurrent use.
type Client struct {
	backend core.Backend
	verbose bool
	native  core.NativeConfig
}

// Option changes a Client that is being made.
type Option func(*Client) error

// Verbose shows the progress of pulls and builds on the standard output, for images without an Output of their own.
func Verbose() Option {
	return func(c *Client) error {
		c.verbose = true
		return nil
	}
}

// WithBackend uses a backend of the caller's. The default is a native one.
func WithBackend(b core.Backend) Option {
	return func(c *Client) error {
		if b == nil {
			return fmt.Errorf("%w: no backend given", ErrBackendNotAvailable)
		}
		c.backend = b
		return nil
	}
}

// WithNative configures the native backend that New starts.
func WithNative(cfg core.NativeConfig) Option {
	return func(c *Client) error {
		c.native = cfg
		return nil
	}
}

// New makes a client. Without WithBackend it starts the native backend, and fails where that cannot work.
func New(options ...Option) (*Client, error) {
	c := &Client{}
	for _, opt := range options {
		if err := opt(c); err != nil {
			return nil, err
		}
	}
	if c.backend == nil {
		b, err := native.New(c.native)
		if err != nil {
			return nil, fmt.Errorf("no available backend: %w", err)
		}
		c.backend = b
	}
	return c, nil
}

// Backend is what the client works with.
func (c *Client) Backend() core.Backend { return c.backend }

// Close gives back what the backend holds: of the native one, the worker with all containers. Without it that happens when the program ends.
func (c *Client) Close() error {
	if closer, ok := c.backend.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// AvailableBackends are the kinds of backends that are linked into the program.
func AvailableBackends() []core.BackendType { return core.AvailableBackendTypes() }

// NewBackend makes the backend that a configuration (core.NativeConfig, core.DockerConfig, …) is for; ErrBackendNotAvailable if no imported package
// provides it.
func NewBackend(config core.BackendConfig) (core.Backend, error) { return core.NewBackend(config) }

// Image returns an image that is there. With Build or Dockerfile it is built, if it does not exist or ForceRebuild is set. Otherwise it is pulled,
// to have the newest; if that fails and the image exists, it is taken as it is.
func (c *Client) Image(ctx context.Context, name string, options ...ImageOption) (*DockerImage, error) {
	i := &DockerImage{backend: c.backend, name: name}
	if c.verbose {
		i.output = os.Stdout
	}
	for _, opt := range options {
		if err := opt(i); err != nil {
			return nil, fmt.Errorf("%w for image `%s` with: %w", ErrorImageOptions, name, err)
		}
	}
	exists := i.Exists(ctx)
	if i.tarball != nil && (ForceRebuild || !exists) {
		if err := i.build(ctx); err != nil {
			return nil, fmt.Errorf("%w for image `%s` with: %w", ErrorImageBuild, name, err)
		}
		return i, nil
	}
	if _, err := i.Pull(ctx, nil); err != nil && !exists {
		return nil, fmt.Errorf("%w for image `%s` with: %w", ErrorImagePull, name, err)
	}
	return i, nil
}

// Clean removes the images that were made more than age ago; with a reference only those of that name, or that it matches as a pattern.
func (c *Client) Clean(ctx context.Context, age time.Duration, reference string) error {
	return c.backend.Clean(ctx, age, reference)
}

// CleanFilter is Clean for the images that a filter matches.
func (c *Client) CleanFilter(ctx context.Context, age time.Duration, filter Filter) error {
	b, ok := c.backend.(core.FilterCleaner)
	if !ok {
		return fmt.Errorf("CleanFilter: %w: %s", core.ErrNotSupported, c.backend.BackendType())
	}
	return b.CleanFilter(ctx, age, filter)
}

// Filter selects images, as docker images --filter does: key → values. It has the form of Filters in moby's client.
type Filter map[string]map[string]bool

// NewFilter returns a filter with one value.
func NewFilter(key, value string) Filter { return Filter{}.Add(key, value) }

// Add adds values to a filter and returns it.
func (f Filter) Add(key string, values ...string) Filter {
	if f[key] == nil {
		f[key] = map[string]bool{}
	}
	for _, v := range values {
		f[key][v] = true
	}
	return f
}
