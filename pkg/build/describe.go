package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/containerd/platforms"
)

// Call is what can be asked of a Dockerfile instead of building it. The answers are those of BuildKit's frontend.
type Call string

// The calls that Describe knows.
const (
	CallCheck   Call = "check"   // what the checks find
	CallOutline Call = "outline" // the arguments, secrets and agents of the target
	CallTargets Call = "targets" // the stages
)

// Description is the answer to a Call.
type Description struct {
	document interface{ WriteText(io.Writer) error }
	// Findings is how many violations of checks there are, Err what makes a build impossible (for a file with "# check=error=true" that is the
	// findings); both are of CallCheck only.
	Findings int
	Err      error
}

// WriteText writes the answer as docker buildx prints it.
func (d Description) WriteText(w io.Writer) error { return d.document.WriteText(w) }

// WriteJSON writes the answer as the JSON document that BuildKit gives.
func (d Description) WriteJSON(w io.Writer) error {
	data, err := json.MarshalIndent(d.document, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, string(data))
	return err
}

// Describe answers a question about the Dockerfile; nothing is built and no layer is fetched. Of the options, what concerns running and
// delivering means nothing.
func Describe(ctx context.Context, o Options, call Call) (_ Description, err error) {
	ctx = progress.With(ctx, o.Parts.Progress)
	in, err := openInputs(ctx, o)
	if err != nil {
		return Description{}, err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	file, err := parsePhase(in, o)
	if call == CallCheck {
		return check(ctx, file, err, in, o), nil
	}
	if err != nil {
		return Description{}, err
	}
	switch call {
	case CallOutline:
		outline, err := plan.Describe(ctx, file, planOptions(platforms.DefaultSpec(), in, o))
		return Description{document: outline}, err
	case CallTargets:
		list, err := plan.Targets(file)
		return Description{document: list}, err
	}
	return Description{}, fmt.Errorf("unknown call %q: check, outline or targets", call)
}

// check reports what the checks find, in a file that may prove unreadable on the way.
func check(ctx context.Context, file *dockerfile.File, err error, in *inputs, o Options) Description {
	var warnings []dockerfile.Warning
	if err == nil {
		warnings, err = plan.Check(ctx, file, planOptions(platforms.DefaultSpec(), in, o))
	}
	report := plan.Report(in.main.DockerfileName, in.main.Dockerfile, warnings, err)
	return Description{document: report, Findings: len(report.Warnings), Err: err}
}
