package solve

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/plan"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// StepError is a step that did not succeed.
type StepError struct {
	// Name is the step's, Location the instruction's place in the Dockerfile.
	Name     string
	Location dockerfile.Location
	Err      error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("%s:%d: %v", e.Location.File, e.Location.First, e.Err)
}

// Unwrap returns the cause: an *ExitError inside it means that a RUN's command ran and failed.
func (e *StepError) Unwrap() error { return e.Err }

// at names the step that an error came from. An error that names one already, as when another stage failed, stays as it is.
func at(step *plan.Step, err error) error {
	var se *StepError
	if err == nil || errors.As(err, &se) {
		return err
	}
	return &StepError{Name: step.Name, Location: step.Location, Err: err}
}

// ProcessError is a command that ran and did not exit with 0.
type ProcessError struct {
	Args []string
	*executor.ExitError
}

func (e *ProcessError) Error() string {
	return fmt.Sprintf("process %q did not complete successfully: %v", strings.Join(e.Args, " "), e.ExitError)
}

// Unwrap returns the *executor.ExitError.
func (e *ProcessError) Unwrap() error { return e.ExitError }

func platformString(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
