package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cairn-build/cairn/pkg/build"
)

// callRequest is what --call and --check ask for; the zero value is a build.
type callRequest struct {
	of   build.Call
	json bool
}

// parseCall reads --call and --check.
func parseCall(text string, check bool) (callRequest, error) {
	if check {
		if text != "" && text != string(build.CallCheck) {
			return callRequest{}, usagef("--check and --call %s ask for different things", text).withHint("--check is short for --call check")
		}
		return callRequest{of: build.CallCheck}, nil
	}
	name, attrs, more := strings.Cut(text, ",")
	r := callRequest{}
	switch of := build.Call(name); of {
	case "", "build":
	case build.CallCheck, build.CallOutline, build.CallTargets:
		r.of = of
	default:
		return r, usagef("--call %q: unknown call", name).withHint("the calls are build, check, outline and targets")
	}
	if !more {
		return r, nil
	}
	switch attrs {
	case "format=json":
		r.json = true
	case "format=text", "format=":
	default:
		return r, usagef("--call %q: unknown attribute %q", text, attrs).withHint("--call %s,format=json", name)
	}
	if r.of == "" {
		return r, usagef("--call %q: a build has no format", text).withHint("--metadata-file FILE writes what was built as JSON")
	}
	return r, nil
}

// describe prints what was asked about the Dockerfile. Findings of the checks end in exit code 1.
func (in invocation) describe(ctx context.Context, req *buildRequest, shown io.Closer) error {
	d, err := build.Describe(ctx, req.options, req.call.of)
	if cerr := shown.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := in.printDescription(d, req.call.json); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	switch {
	case d.Err != nil:
		return d.Err
	case d.Findings > 0:
		return exited{exitFailed}
	}
	return nil
}

func (in invocation) printDescription(d build.Description, asJSON bool) error {
	if asJSON {
		return d.WriteJSON(in.stdout)
	}
	var text bytes.Buffer
	if err := d.WriteText(&text); err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(text.String()) {
		_, err := io.WriteString(in.stdout, printable(strings.TrimSuffix(line, "\n"))+"\n")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
