package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/worker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// BuildRequest is a build: pkg/build's options as far as they can be said to another process. See `cairn build --help` for each.
type BuildRequest struct {
	// Context is a directory of this machine, a git or http URL, or "-" for Stdin: a tar, in any compression.
	Context string
	// Dockerfile is its path in the context; "" is Dockerfile.
	Dockerfile string
	Stdin      io.Reader `json:"-"`
	// Named are further contexts: name → directory or URL.
	Named map[string]string `json:",omitempty"`

	Target    string             `json:",omitempty"`
	Platforms []ocispec.Platform `json:",omitempty"`
	BuildArgs map[string]string  `json:",omitempty"`
	Labels    map[string]string  `json:",omitempty"`
	// Network is that of RUN: "", "none" or "host".
	Network string `json:",omitempty"`
	// Secrets are those of RUN --mount=type=secret, by id.
	Secrets map[string][]byte `json:",omitempty"`
	// AllowSecretInLayer lets a RUN leave a secret that it mounts in its layer, which fails otherwise.
	AllowSecretInLayer bool `json:",omitempty"`
	// NoCache carries every step out. Pull asks registries also for base images that are held.
	NoCache, Pull bool

	// Tags are the names of the image. Outputs are as after --output ("type=registry"); with none it stays in the store.
	Tags    []string
	Outputs []string `json:",omitempty"`
}

// BuildResult is what was built.
type BuildResult struct {
	// Descriptor is that of the manifest, or of the index for several platforms; ImageID is the digest of the config, for one.
	Descriptor ocispec.Descriptor
	ImageID    digest.Digest
}

// Build builds an image and reports to sink, which may be nil. A command of the Dockerfile that failed is an *executor.ExitError for
// errors.As; an error about the Dockerfile has a method Excerpt with the lines it is about.
func (e *Engine) Build(ctx context.Context, req BuildRequest, sink progress.Sink) (BuildResult, error) {
	call := worker.Call{Method: methodBuild, Params: req}
	if sink != nil {
		call.Event = func(data json.RawMessage) {
			var p progressEvent
			if json.Unmarshal(data, &p) == nil {
				sink.Event(p.decode())
			}
		}
	}
	var res BuildResult
	call.Result = &res
	if req.Context != "-" {
		return res, e.work.Call(ctx, call)
	}
	if req.Stdin == nil {
		return res, errors.New("building: the context is the standard input, and there is none")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return res, err
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, req.Stdin)
		if errors.Is(err, unix.EPIPE) {
			err = nil // the worker has seen enough, and says why
		}
		copied <- errors.Join(err, w.Close())
	}()
	call.Files = []*os.File{r}
	err = errors.Join(e.work.Call(ctx, call), r.Close())
	select {
	case cerr := <-copied:
		err = errors.Join(err, cerr)
	default: // who writes the context may take for ever
	}
	return res, err
}
