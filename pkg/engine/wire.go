package engine

import (
	"errors"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/opencontainers/go-digest"
)

// The methods of the worker, with the types of their parameters → results.
const (
	methodOpen  = "open"  // Options →
	methodPing  = "ping"  // →
	methodBuild = "build" // BuildRequest, file 0 the context, event progressEvent → BuildResult

	methodLayerOpen = "layer open"             // []layer.Layer → roHandle
	methodLayerRW   = "layer new"              // handle → rwHandle
	methodCommit    = "layer commit"           // handle → roHandle
	methodReleaseRO = "layer release"          // handle →
	methodReleaseRW = "writable layer release" // handle →

	methodCreate  = "container create"  // ContainerSpec → ref
	methodStart   = "container start"   // ref →
	methodAttach  = "container attach"  // attachParams, files stdout, stderr, stdin; one event → (when all is written)
	methodWait    = "container wait"    // ref → ContainerState
	methodStop    = "container stop"    // stopParams →
	methodRemove  = "container remove"  // removeParams →
	methodInspect = "container inspect" // ref → ContainerState
	methodLogs    = "container logs"    // logsParams, file 0 →
	methodSnap    = "container commit"  // ref → roHandle
	methodMkdir   = "container mkdir"   // mkdirParams →
)

// handle names something that the worker holds.
type handle struct {
	Handle string `json:"handle"`
}

type roHandle struct {
	handle
	DiffID digest.Digest `json:"diffID"`
	Chain  []layer.Layer `json:"chain"`
}

type rwHandle struct {
	handle
	Root string `json:"root"`
}

// ref names a container.
type ref struct {
	ID string `json:"id"`
}

// ContainerSpec is a container to be: a command over the layers of an image.
type ContainerSpec struct {
	// Chain is the layers of the root filesystem, bottom first.
	Chain []layer.Layer `json:"chain"`
	// Spec is what runs. Its Root and streams are set by the engine.
	Spec executor.Spec `json:"spec"`
	// NoLog keeps nothing of the output: only who is attached gets it.
	NoLog bool `json:"noLog,omitempty"`
}

// Status is how far a container is; the words are Docker's.
type Status string

// The values of Status.
const (
	Created Status = "created"
	Running Status = "running"
	Exited  Status = "exited"
)

// ContainerState is what there is to say of a container.
type ContainerState struct {
	ID     string `json:"id"`
	Status Status `json:"status"`
	// ExitCode is 128+n after signal n. Error is why the container could not run; it is empty for a command that ran and failed.
	ExitCode   int       `json:"exitCode"`
	Error      string    `json:"error,omitempty"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
}

type attachParams struct {
	ref
	Stdout, Stderr, Stdin bool
}

type stopParams struct {
	ref
	Signal int           `json:"signal,omitempty"`
	Grace  time.Duration `json:"grace"`
}

type removeParams struct {
	ref
	Force bool `json:"force,omitempty"`
}

type logsParams struct {
	ref
	Follow bool `json:"follow,omitempty"`
}

type mkdirParams struct {
	ref
	Dir string `json:"dir"`
}

// progressEvent is a progress.Event as it travels: an error is a text.
type progressEvent struct {
	progress.Event
	Err   string `json:"err,omitempty"`
	Error string `json:"error,omitempty"`
}

func encodeEvent(e progress.Event) progressEvent {
	p := progressEvent{Event: e}
	if e.Err != nil {
		p.Error = e.Err.Error()
	}
	p.Event.Err = nil
	return p
}

func (p progressEvent) decode() progress.Event {
	e := p.Event
	if p.Error != "" {
		e.Err = errors.New(p.Error)
	}
	return e
}
