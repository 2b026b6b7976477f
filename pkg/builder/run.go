package builder

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/moby/api/types/container"
)

// ErrCancelled is that of a Run whose context has ended.
var ErrCancelled = errors.New("build cancelled")

// StatusCodeError is a command that ran and did not end with 0.
type StatusCodeError struct {
	code int
	err  error
}

func (e *StatusCodeError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("the command returned a non-zero code: %d", e.code)
	}
	return e.err.Error()
}

// StatusCode is the exit code.
func (e *StatusCodeError) StatusCode() int { return e.code }

// Unwrap returns why the command could not run, if that is so.
func (e *StatusCodeError) Unwrap() error { return e.err }

// Run has a container run, as an interpreter does for RUN: attach, so that nothing of the output is missed; start; read the output to its end;
// wait. When ctx ends the container is removed, and the error is ErrCancelled. An exit code other than 0 is a *StatusCodeError.
func Run(ctx context.Context, b ExecBackend, id string, stdout, stderr io.Writer) error {
	attached, output := make(chan struct{}), make(chan error, 1)
	go func() { output <- b.ContainerAttachRaw(id, nil, stdout, stderr, true, attached) }()
	select {
	case err := <-output:
		return err
	case <-attached:
	}
	removed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		removed <- b.ContainerRm(id, &ContainerRmConfig{ForceRemove: true, RemoveVolume: true})
	})
	err := finish(ctx, b, id, output)
	if !stop() {
		return errors.Join(ErrCancelled, <-removed)
	}
	return err
}

// finish starts the container, and sees it through.
func finish(ctx context.Context, b ExecBackend, id string, output <-chan error) error {
	if err := b.ContainerStart(ctx, id, "", ""); err != nil {
		return err
	}
	if err := <-output; err != nil {
		return err
	}
	ended, err := b.ContainerWait(ctx, id, container.WaitConditionNotRunning)
	if err != nil {
		return err
	}
	if st := <-ended; st.ExitCode() != 0 {
		return &StatusCodeError{st.ExitCode(), st.Err()}
	}
	return nil
}
