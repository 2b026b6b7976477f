package build

import (
	"errors"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/solve"
)

// located is the failure of a step with the lines of the Dockerfile it is about.
type located struct {
	error
	excerpt string
}

// Unwrap returns the failure.
func (l *located) Unwrap() error { return l.error }

// Excerpt renders the lines of the Dockerfile around the failing instruction, for a terminal.
func (l *located) Excerpt() string { return l.excerpt }

// locate adds to the failure of a step the lines it is about. Errors of the Dockerfile have them already.
func locate(file *dockerfile.File, err error) error {
	var step *solve.StepError
	if !errors.As(err, &step) {
		return err
	}
	var at *dockerfile.Error
	if !errors.As(file.ErrorAt(step.Location, errors.New("here")), &at) {
		return err
	}
	return &located{error: err, excerpt: at.Excerpt()}
}
